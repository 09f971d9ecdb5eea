//go:build tools

// Package tools pins helm, which installs the chart in the tests' Kubernetes cluster; tests/tools/build.sh builds it.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
