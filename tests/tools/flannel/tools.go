//go:build tools

// Package tools pins flannel's CNI plugin at the last release of the plugins repository that contains it.
package tools

import _ "github.com/containernetworking/plugins/plugins/meta/flannel"
