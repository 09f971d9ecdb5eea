//go:build tools

// Package tools pins etcd, the store of the tests' Kubernetes cluster; tests/tools/build.sh builds it.
package tools

import _ "go.etcd.io/etcd/server/v3"
