#!/usr/bin/env bash
# build.sh [--check] WHAT DIR: build programs that the lab and the tests run into DIR, from the pinned modules beside
# this script. Does nothing when DIR is up to date. Needs Go. With --check it builds nothing and exits 1 when there
# would be something to build.
#
#   WHAT        programs
#   cni         cnitool, bridge, ptp, host-local, portmap, loopback and flannel
#   containerd  containerd 2, with its shim and ctr
#   crictl      the client of the runtimes' interface (CRI)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
usage="usage: build.sh [--check] cni|containerd|crictl DIR"
check=no
[ "${1:-}" != --check ] || { check=yes && shift; }
what=${1:?$usage}
dir=${2:?$usage}

case $what in
cni) programs="cnitool bridge ptp host-local portmap loopback flannel" modules="cni flannel" ;;
containerd) programs="containerd containerd-shim-runc-v2 ctr" modules=containerd ;;
crictl) programs=crictl modules=crictl ;;
*) echo "$usage" >&2 && exit 2 ;;
esac

# What DIR was built from: the pins and this script.
want=$( (cd "$here" && cat build.sh && for module in $modules; do cat "$module/go.mod" "$module/go.sum"; done) | cksum)
fresh=yes
[ "$(cat "$dir/.built-from" 2>/dev/null)" = "$want" ] || fresh=no
for program in $programs; do
  [ -x "$dir/$program" ] || fresh=no
done
[ $fresh = no ] || exit 0
[ $check = no ] || exit 1

command -v go >/dev/null || {
  echo "tests/tools/build.sh: Go is needed to build $what; run 'make setup'" >&2
  exit 1
}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=readonly" GOBIN="$dir"

# build MODULE PACKAGE...: what a module beside this script pins
build() {
  local module=$1
  shift
  (cd "$here/$module" && go install -ldflags "-s -w" -tags "no_btrfs no_zfs no_devmapper" "$@")
}

started=$SECONDS
echo "building $programs into $dir" >&2
case $what in
cni)
  plugins=github.com/containernetworking/plugins/plugins
  build cni github.com/containernetworking/cni/cnitool $plugins/main/bridge $plugins/main/ptp \
    $plugins/main/loopback $plugins/ipam/host-local $plugins/meta/portmap
  build flannel $plugins/meta/flannel
  ;;
containerd)
  source=github.com/containerd/containerd/v2
  build containerd $source/cmd/containerd $source/cmd/containerd-shim-runc-v2 $source/cmd/ctr
  ;;
crictl) build crictl sigs.k8s.io/cri-tools/cmd/crictl ;;
esac
echo "$want" >"$dir/.built-from"
echo "built $programs in $((SECONDS - started)) s" >&2
