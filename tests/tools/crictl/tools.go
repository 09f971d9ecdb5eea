//go:build tools

// Package tools pins crictl, the client of the container runtimes' interface; tests/tools/build.sh builds it.
package tools

import _ "sigs.k8s.io/cri-tools/cmd/crictl"
