#!/usr/bin/env bash
# Brings a machine to the point where vethwall builds, demonstrates and tests itself: `make setup`.
#
# Every part is one `have_X` that looks at the real thing (a compiler is asked to compile, a command is
# looked up), and one `get_X` that installs it. Nothing is taken on trust from an earlier run, so what somebody
# removes is noticed, and a machine that has everything is done in well under two seconds.
#
#   part     what for                                                    where it comes from
#   system   C linker, git, curl, ip, iptables, ipset, nft               the distribution's packages
#   rust     agent, plugin, policy compiler, tests                       rustup; else Debian's rustc-web
#   bpf      the kernel programs                                         Debian's rustc-web and libstd-rust-web-dev-bpf
#                                                                        with bpf-linker; else a nightly by rustup
#   go       building flannel's, libcni's and containerd's programs      go.dev, where the distribution's is too old
#   cni      those programs, in .tools/cni                               tests/tools/build.sh
#   kernel   br_netfilter and vxlan loaded                               this machine
#   runtime  container runtimes, for `make test`; only when named        the distribution's containerd and runc, unpacked
#                                                                        and not installed; containerd 2 and crictl by
#                                                                        tests/tools/build.sh
#   cluster  Kubernetes, etcd, flanneld and helm, in .tools/cluster, for   tests/tools/build.sh
#            `make e2e`; only when named
#   vm       qemu and modprobe, for `make test-kernels`; only when named  the distribution's packages
#
# Usage: scripts/setup.sh [PART...]     all parts in the order above but runtime, cluster and vm, or only those named
#        scripts/setup.sh --check       change nothing; exit 1 when something is missing
# VETHWALL_EBPF=debian|nightly chooses where the compiler for the kernel programs comes from (default: what works).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
tools=$root/.tools
log=$tools/setup.log
cargo_home=${CARGO_HOME:-$HOME/.cargo}
# The Makefile and .ci/run set the same path.
export PATH=$cargo_home/bin:$tools/go/bin:$PATH:/usr/local/go/bin:/usr/sbin:/sbin

BPF_LINKER=0.13.0
# The nightly and the linker are a pair: bpf-linker 0.10.4 is the last that borrows rustc's own LLVM, and this
# nightly is of the last month in which that LLVM is one it can read (22). Newer nightlies emit LLVM 23.
NIGHTLY=nightly-2026-05-20
NIGHTLY_LINKER=0.10.4
CLIPPY_AND_FMT="--component clippy --component rustfmt"

check_only=no
updated=no

say() { printf 'setup: %s\n' "$*"; }

# One sentence: what cannot be had, and what to do about it.
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# run WHAT-FAILED-AND-WHAT-TO-DO COMMAND...: output goes to the log, and to the screen only when it fails.
run() {
    local sentence=$1 started=$SECONDS
    shift
    printf '\n$ %s\n' "$*" >>"$log"
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" | sed 's/^/    /' >&2
        die "$sentence (all of the output: $log)"
    fi
    say "    done in $((SECONDS - started)) s"
}

# try COMMAND...: like run, but the caller has another way when it fails.
try() {
    printf '\n$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null
}

has() { command -v "$1" >/dev/null 2>&1; }

# at_least HAVE WANT: versions of the form 1.95 or 1.95.0
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

need_root() { [ "$(id -u)" = 0 ] || die "$1 is missing and only root can install it: run 'sudo make setup'."; }

# ---------------------------------------------------------------------------------------------- system

# command=package; what a build and the lab call by name
SYSTEM="cc=build-essential make=make git=git curl=curl ip=iproute2 tc=iproute2 bridge=iproute2 iptables=iptables
    ip6tables=iptables ipset=ipset nft=nftables nsenter=util-linux sysctl=procps tar=tar"

missing_packages() {
    local pair
    for pair in $SYSTEM; do
        has "${pair%%=*}" || printf '%s\n' "${pair#*=}"
    done
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
    [ -e /usr/include/stdio.h ] || echo libc6-dev
}

have_system() { [ -z "$(missing_packages)" ]; }

apt_update() {
    [ "$updated" = yes ] && return
    has apt-get || die "this machine has no apt-get, and setup knows only Debian and Ubuntu: install by hand what 'scripts/setup.sh --check' lists."
    say "reading the distribution's package lists"
    run "apt-get update failed: check the network and /etc/apt, then run 'make setup' again" \
        apt-get -o DPkg::Lock::Timeout=300 -q update
    updated=yes
}

# --no-remove: an installation that would take something away is not ours to make.
apt_install=(env DEBIAN_FRONTEND=noninteractive apt-get -o "DPkg::Lock::Timeout=300" -q -y --no-remove --no-install-recommends install)

get_system() {
    local packages
    packages=$(missing_packages | sort -u | tr '\n' ' ')
    need_root "$packages"
    apt_update
    say "installing $packages(compiler, git, and the network commands the lab uses) from the distribution"
    # shellcheck disable=SC2086 # a list
    run "apt-get could not install $packages: see its message above" "${apt_install[@]}" $packages
}

about_system() { :; }

# ---------------------------------------------------------------------------------------------- rust

rust_wanted() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }
rust_version() { rustc --version 2>/dev/null | cut -d ' ' -f 2; }

have_rust() { has cargo && at_least "$(rust_version)" "$(rust_wanted)"; }

# The version of a package that apt would install, without epoch and Debian's suffix; empty when there is none.
candidate() {
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *//p' | sed 's/^[0-9]*://; s/[+~-].*//; s/(none)//'
}

get_rust() {
    local wanted
    wanted=$(rust_wanted)
    if has rustup; then
        say "rustc is $(rust_version || true); vethwall needs $wanted or newer: rustup installs the newest stable, for this folder"
        # shellcheck disable=SC2086 # a list
        run "rustup could not install a stable toolchain: check the network, or install rustc $wanted by other means" \
            rustup toolchain install stable --profile minimal $CLIPPY_AND_FMT
        run "rustup could not choose stable for this folder" rustup override set stable
    elif try curl --proto '=https' --tlsv1.2 -sSf -m 60 -o "$tools/rustup-init.sh" https://sh.rustup.rs; then
        say "installing Rust (cargo, rustc, clippy, rustfmt) with rustup from sh.rustup.rs into $cargo_home"
        # shellcheck disable=SC2086 # a list
        run "rustup's installer failed: check the network, or install rustc $wanted by other means" \
            sh "$tools/rustup-init.sh" -y --no-modify-path --profile minimal --default-toolchain stable $CLIPPY_AND_FMT
    else
        say "cargo is missing and sh.rustup.rs does not answer"
        need_root "Rust"
        apt_update
        at_least "$(candidate rustc-web)" "$wanted" ||
            die "Rust $wanted or newer cannot be had: sh.rustup.rs does not answer and the distribution has no rustc-web of that version; install it from https://rustup.rs and run 'make setup' again."
        say "installing the distribution's rustc-web and cargo-web instead (no clippy, no rustfmt)"
        run "apt-get could not install rustc-web: see its message above" "${apt_install[@]}" rustc-web cargo-web
    fi
    hash -r
    have_rust || die "rustc is still $(rust_version || true) and vethwall needs $wanted or newer: put a newer one first in PATH."
}

about_rust() { printf 'rustc %s' "$(rust_version)"; }

# ---------------------------------------------------------------------------------------------- bpf

# A command of the toolchain that compiles the kernel programs. Without rustup the build asks for plain rustc.
bpf() { if has rustup; then rustup run bpf "$@"; else "$@"; fi }

# The compiler, its core library for the kernel's machine and the linker, tried for real. Compiling takes a
# moment, linking some seconds, so that a link that worked is remembered for these very two programs.
bpf_compiles() {
    local out code=1 pair
    out=$(mktemp -d)
    printf '%s\n' '#![no_std]' '#![no_main]' '#[unsafe(no_mangle)] extern "C" fn f() -> u32 { 0 }' \
        '#[panic_handler] fn panic(_: &core::panic::PanicInfo<'"'_"'>) -> ! { loop {} }' >"$out/f.rs"
    local compile=(bpf rustc --edition 2024 --target bpfel-unknown-none -O "$out/f.rs")
    if has bpf-linker && try bpf-linker --version && try "${compile[@]}" --emit obj -o "$out/f.o"; then
        pair=$(bpf rustc -vV && stat -L -c '%n %s %Y' "$(command -v bpf-linker)")
        if [ "$pair" = "$(cat "$tools/bpf.linked" 2>/dev/null)" ]; then
            code=0
        elif try "${compile[@]}" -C linker=bpf-linker -o "$out/f.o"; then
            echo "$pair" >"$tools/bpf.linked"
            code=0
        fi
    fi
    rm -rf "$out"
    return $code
}

# A nightly has no ready-made core library; cargo compiles it from the sources beside the compiler.
bpf_builds_core() {
    local sysroot
    sysroot=$(bpf rustc --print sysroot 2>/dev/null) || return 1
    bpf rustc --version | grep -q nightly && [ -e "$sysroot/lib/rustlib/src/rust/library/core/src/lib.rs" ] && has bpf-linker
}

have_bpf() { bpf_builds_core || bpf_compiles; }

debian_has_bpf() {
    [ "${VETHWALL_EBPF:-debian}" = debian ] && has apt-get && [ "$(id -u)" = 0 ] || return 1
    apt_update
    at_least "$(candidate rustc-web)" "$(rust_wanted)" && [ -n "$(candidate libstd-rust-web-dev-bpf)" ]
}

get_bpf_debian() {
    local llvm
    say "installing Debian's rustc-web with its core library for eBPF: compiles the kernel programs"
    try "${apt_install[@]}" rustc-web cargo-web libstd-rust-web-dev-bpf || return 1
    llvm=$(/usr/bin/rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    if has rustup; then
        say "making /usr known to rustup as the toolchain 'bpf', by which the build asks for it"
        run "rustup could not link /usr as the toolchain 'bpf'" rustup toolchain link bpf /usr
    fi
    bpf_compiles && return
    say "building bpf-linker $BPF_LINKER with LLVM $llvm (a minute): links the kernel programs"
    try "${apt_install[@]}" "llvm-$llvm-dev" "libpolly-$llvm-dev" libzstd-dev zlib1g-dev libxml2-dev build-essential || return 1
    run "bpf-linker could not be built: check that crates.io can be reached" \
        env LLVM_PREFIX="/usr/lib/llvm-$llvm" PATH="/usr/lib/llvm-$llvm/bin:$PATH" \
        cargo install bpf-linker --version "$BPF_LINKER" --locked --force --no-default-features --features "llvm-$llvm"
}

get_bpf_nightly() {
    has rustup || die "the kernel programs need either Debian's libstd-rust-web-dev-bpf or rustup, and this machine has neither: install rustup from https://rustup.rs and run 'make setup' again."
    say "installing $NIGHTLY with its sources by rustup: compiles the kernel programs"
    run "$NIGHTLY cannot be had: Debian's libstd-rust-web-dev-bpf is not in this machine's package lists and rustup could not download (check the network, then run 'make setup' again)" \
        rustup toolchain install "$NIGHTLY" --profile minimal --component rust-src
    run "rustup could not link $NIGHTLY as the toolchain 'bpf'" \
        rustup toolchain link bpf "$(rustup run "$NIGHTLY" rustc --print sysroot)"
    say "building bpf-linker $NIGHTLY_LINKER (a minute): links the kernel programs"
    run "bpf-linker could not be built: check that crates.io can be reached" \
        rustup run "$NIGHTLY" cargo install bpf-linker --version "$NIGHTLY_LINKER" --locked --force
}

get_bpf() {
    if debian_has_bpf; then
        get_bpf_debian || say "Debian's packages do not install here (see $log); taking a nightly compiler"
    fi
    have_bpf || get_bpf_nightly
    hash -r
    have_bpf || die "the toolchain for the kernel programs is installed but does not compile: see the end of $log."
}

about_bpf() { printf 'eBPF by rustc %s with %s' "$(bpf rustc --version | cut -d ' ' -f 2)" "$(bpf-linker --version)"; }

# ---------------------------------------------------------------------------------------------- go

# What the lab's Go modules ask for.
go_wanted() {
    sed -n 's/^go \([0-9.]*\)$/\1/p' tests/tools/*/go.mod | sort -V | tail -n 1
}
go_version() { go env GOVERSION 2>/dev/null | sed 's/^go//; s/ .*//'; }

# Since 1.21 an older go fetches the version that a module asks for, unless it is told not to.
go_suffices() { at_least "$1" "$(go_wanted)" || { at_least "$1" 1.21 && [ "${2:-auto}" != local ]; }; }

have_go() { has go && go_suffices "$(go_version)" "$(go env GOTOOLCHAIN 2>/dev/null)"; }

get_go() {
    local wanted packaged="" newest archive
    wanted=$(go_wanted)
    if [ "$(id -u)" = 0 ] && has apt-get && ! has go; then
        apt_update
        packaged=$(candidate golang-go)
        if [ -n "$packaged" ] && go_suffices "$packaged" "${GOTOOLCHAIN:-}"; then
            say "installing the distribution's Go $packaged: builds the CNI plugins the lab runs"
            run "apt-get could not install golang-go: see its message above" "${apt_install[@]}" golang-go
            return
        fi
    fi
    try curl -sSf -m 30 -o "$tools/go.version" 'https://go.dev/VERSION?m=text' ||
        die "Go $wanted or newer cannot be had: the distribution's is ${packaged:-not used here} and go.dev does not answer; install Go by other means and run 'make setup' again."
    newest=$(head -n 1 "$tools/go.version")
    archive=$newest.linux-$(dpkg --print-architecture).tar.gz
    say "installing $newest from go.dev into .tools/go: builds the CNI plugins the lab runs"
    run "$archive could not be downloaded from dl.google.com: check the network, then run 'make setup' again" \
        curl -sSf -o "$tools/$archive" "https://dl.google.com/go/$archive" -o "$tools/$archive.sha256" "https://dl.google.com/go/$archive.sha256"
    echo "$(cat "$tools/$archive.sha256")  $tools/$archive" | sha256sum --check --quiet - ||
        die "$archive does not have the checksum that dl.google.com gives for it: run 'make setup' again."
    rm -rf "$tools/go"
    run "$archive could not be unpacked" tar -C "$tools" -xzf "$tools/$archive"
    rm -f "$tools/$archive" "$tools/$archive.sha256"
    hash -r
}

about_go() { printf 'go %s' "$(go_version)"; }

# ---------------------------------------------------------------------------------------------- cni

# tests/tools/build.sh knows what it builds and returns at once when all of it is there and current.
have_cni() { bash tests/tools/build.sh --check cni "$tools/cni" >/dev/null 2>&1; }

get_cni() {
    say "building cnitool and the CNI plugins flannel uses into .tools/cni (a minute): the lab wires its pods with them"
    run "the CNI plugins could not be built: check that the Go module proxy can be reached" \
        bash tests/tools/build.sh cni "$tools/cni"
}

about_cni() { printf 'CNI plugins in .tools/cni'; }

# ---------------------------------------------------------------------------------------------- kernel

have_kernel() { [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; }

# Needed to run, not to build: a warning, so that `make build` works in a container.
get_kernel() {
    if [ "$(id -u)" != 0 ]; then
        say "warning: br_netfilter is not loaded; 'make demo' and 'make test' load it as root"
        return
    fi
    say "loading br_netfilter and vxlan: the lab's nodes need them, as flannel's do"
    try modprobe br_netfilter || say "warning: modprobe br_netfilter failed; the lab's Services will not work on this kernel"
    try modprobe vxlan || true
}

about_kernel() { printf 'kernel %s' "$(uname -r)"; }

# ---------------------------------------------------------------------------------------------- runtime

# Unpacked, so that no service runs and nothing of the machine changes. runc serves both releases of containerd.
packaged=$tools/containerd-distribution

have_packaged() { "$packaged/containerd" --version && "$packaged/runc" --version; } >/dev/null 2>&1

have_runtime() {
    have_packaged && bash tests/tools/build.sh --check containerd "$tools/containerd-2" >/dev/null 2>&1 &&
        bash tests/tools/build.sh --check crictl "$tools/crictl" >/dev/null 2>&1
}

get_packaged() {
    local work=$packaged.tmp package
    [ -n "$(candidate containerd)" ] && [ -n "$(candidate runc)" ] || apt_update
    say "unpacking the distribution's containerd $(candidate containerd) and runc $(candidate runc) into .tools (nothing is installed): tests start pods with them"
    rm -rf "$work" "$packaged"
    mkdir -p "$work/tree" "$work/done"
    # Lists of packages that are older than the mirror name files that are gone.
    (cd "$work" && try apt-get -q -o APT::Sandbox::User=root download containerd runc) || {
        apt_update
        run "the packages containerd and runc could not be downloaded: see the message above" \
            bash -c "cd '$work' && apt-get -q -o APT::Sandbox::User=root download containerd runc"
    }
    for package in "$work"/*.deb; do
        run "$package could not be unpacked" dpkg-deb -x "$package" "$work/tree"
    done
    mv "$work"/tree/usr/bin/{containerd,containerd-shim-runc-v2,ctr} "$work/tree/usr/sbin/runc" "$work/done"
    mv "$work/done" "$packaged"
    rm -rf "$work"
    if ! "$packaged/runc" --version >/dev/null 2>&1; then
        need_root libseccomp2
        apt_update
        say "installing libseccomp2: the distribution's runc needs it"
        run "apt-get could not install libseccomp2: see its message above" "${apt_install[@]}" libseccomp2
    fi
    have_packaged || die "the distribution's containerd or runc does not run: try $packaged/runc --version"
}

get_runtime() {
    have_packaged || get_packaged
    say "building containerd 2 and crictl into .tools (three minutes): tests start pods with them"
    run "containerd 2 could not be built: check that the Go module proxy can be reached" \
        bash tests/tools/build.sh containerd "$tools/containerd-2"
    run "crictl could not be built: check that the Go module proxy can be reached" \
        bash tests/tools/build.sh crictl "$tools/crictl"
}

# version PROGRAM: of a containerd
version() { "$1" --version | cut -d ' ' -f 3 | sed 's/[~+].*//'; }

about_runtime() { printf 'containerd %s and %s' "$(version "$packaged/containerd")" "$(version "$tools/containerd-2/containerd")"; }

# ---------------------------------------------------------------------------------------------- cluster

CLUSTER="etcd kubernetes helm flanneld"

# Commands of the distribution that nodes call: kubelet and kube-proxy look for them, flannel's image carries some.
CLUSTER_SYSTEM="openssl=openssl mount=mount timeout=coreutils ldd=libc-bin"

missing_cluster() {
    local pair
    for pair in $CLUSTER_SYSTEM; do
        has "${pair%%=*}" || printf '%s\n' "${pair#*=}"
    done
}

have_cluster() {
    local what
    [ -z "$(missing_cluster)" ] || return 1
    for what in $CLUSTER; do
        bash tests/tools/build.sh --check "$what" "$tools/cluster" >/dev/null 2>&1 || return 1
    done
}

get_cluster() {
    local what packages
    packages=$(missing_cluster | sort -u | tr '\n' ' ')
    if [ -n "$packages" ]; then
        need_root "$packages"
        apt_update
        say "installing $packages(what the nodes of a Kubernetes cluster call) from the distribution"
        # shellcheck disable=SC2086 # a list
        run "apt-get could not install $packages: see its message above" "${apt_install[@]}" $packages
    fi
    for what in $CLUSTER; do
        bash tests/tools/build.sh --check "$what" "$tools/cluster" >/dev/null 2>&1 && continue
        say "building $what into .tools/cluster (minutes, once): 'make e2e' runs a real cluster on this machine"
        run "$what could not be built: check that the Go module proxy can be reached, and that 10 GB of disk are free" \
            bash tests/tools/build.sh "$what" "$tools/cluster"
    done
}

about_cluster() { printf 'Kubernetes %s' "$("$tools/cluster/kubelet" --version | cut -d ' ' -f 2)"; }

# ---------------------------------------------------------------------------------------------- vm

# What scripts/kernels.sh and vethwall-vm call by name.
VM="qemu-system-x86_64=qemu-system-x86 setpriv=util-linux modprobe=kmod depmod=kmod xz=xz-utils strip=binutils ldd=libc-bin dpkg-deb=dpkg"

missing_vm() {
    local pair
    for pair in $VM; do
        has "${pair%%=*}" || printf '%s\n' "${pair#*=}"
    done
}

have_vm() { [ -z "$(missing_vm)" ]; }

get_vm() {
    local packages
    packages=$(missing_vm | sort -u | tr '\n' ' ')
    need_root "$packages"
    apt_update
    say "installing $packages(virtual machines for tests on other kernels) from the distribution"
    # shellcheck disable=SC2086 # a list
    run "apt-get could not install $packages: see its message above" "${apt_install[@]}" $packages
}

about_vm() { qemu-system-x86_64 --version | sed -n 's/^QEMU emulator version \([0-9.]*\).*/qemu \1/p'; }

# ---------------------------------------------------------------------------------------------- main

parts=()
for argument in "$@"; do
    case $argument in
    --check) check_only=yes ;;
    system | rust | bpf | go | cni | kernel | runtime | cluster | vm) parts+=("$argument") ;;
    *) die "unknown argument '$argument': scripts/setup.sh [--check] [system|rust|bpf|go|cni|kernel|runtime|cluster|vm]..." ;;
    esac
done
[ ${#parts[@]} -gt 0 ] || parts=(system rust bpf go cni kernel)

mkdir -p "$tools"
exec 9>"$tools/setup.lock"
flock -n 9 || { say "another setup is running; waiting for it" && flock 9; }
: >"$log"

missing=()
about=()
for part in "${parts[@]}"; do
    if ! "have_$part"; then
        if [ "$check_only" = yes ]; then
            missing+=("$part")
            continue
        fi
        "get_$part"
    fi
    sentence=$("about_$part")
    [ -z "$sentence" ] || about+=("$sentence")
done

if [ ${#missing[@]} -gt 0 ]; then
    die "missing: ${missing[*]} (run 'make setup')"
fi
summary=$(printf '%s, ' "${about[@]}")
say "everything is here: ${summary%, }"
