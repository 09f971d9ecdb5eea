//go:build tools

// Package tools pins flannel's daemon; tests/tools/build.sh builds it.
package tools

import _ "github.com/flannel-io/flannel"
