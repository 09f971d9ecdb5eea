#!/usr/bin/env bash
# build.sh [--check] DIR: build the CNI programs that the lab runs into DIR, from the pinned modules beside this
# script: cnitool, bridge, host-local, portmap, loopback and flannel. Does nothing when DIR is up to date. Needs
# Go. With --check it builds nothing and exits 1 when there would be something to build.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
check=no
[ "${1:-}" != --check ] || { check=yes && shift; }
dir=${1:?usage: build.sh [--check] DIR}
programs="cnitool bridge host-local portmap loopback flannel"

# What DIR was built from: the pins and this script.
want=$(cat "$here"/build.sh "$here"/*/go.mod "$here"/*/go.sum | cksum)
fresh=yes
[ "$(cat "$dir/.built-from" 2>/dev/null)" = "$want" ] || fresh=no
for program in $programs; do
  [ -x "$dir/$program" ] || fresh=no
done
[ $fresh = no ] || exit 0
[ $check = no ] || exit 1

command -v go >/dev/null || {
  echo "tests/tools/build.sh: Go is needed to build the CNI plugins; run 'make setup'" >&2
  exit 1
}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=readonly" GOBIN="$dir"

started=$SECONDS
echo "building the CNI plugins that flannel uses into $dir" >&2
plugins=github.com/containernetworking/plugins/plugins
(cd "$here/cni" && go install -ldflags "-s -w" github.com/containernetworking/cni/cnitool \
  $plugins/main/bridge $plugins/main/loopback $plugins/ipam/host-local $plugins/meta/portmap)
(cd "$here/flannel" && go install -ldflags "-s -w" $plugins/meta/flannel)
echo "$want" >"$dir/.built-from"
echo "built $programs in $((SECONDS - started)) s" >&2
