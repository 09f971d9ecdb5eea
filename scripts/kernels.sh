#!/usr/bin/env bash
# Fetches the kernels that `make test-kernels` boots, into .tools/kernels/NAME: vmlinuz, lib/modules, and a file with
# the release. They are Debian's kernels for cloud machines, unpacked and never installed; what is there already stays.
#
#   name     from                     why this one
#   5.10     Debian 11 and security   the oldest that vethwall supports
#   6.1      Debian 12 and security   the last of Debian without tcx
#   6.12     Debian 13 and security   the current stable one
#   newest   Debian unstable          what comes next
#
# The mirror is the one in this machine's own apt configuration, with the lists and the cache of another directory, so
# that the machine's are left alone.
#
# Usage: scripts/kernels.sh [NAME...]              all four, or those named
#        scripts/kernels.sh --refresh [NAME...]    again, for a newer revision
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kernels=$root/.tools/kernels
export PATH=$PATH:/usr/sbin:/sbin

say() { printf 'kernels: %s\n' "$*"; }

# One sentence: what cannot be had, and what to do about it.
die() {
    printf 'kernels: %s\n' "$*" >&2
    exit 1
}

suite_of() {
    case $1 in
    5.10) echo bullseye ;;
    6.1) echo bookworm ;;
    6.12) echo trixie ;;
    newest) echo sid ;;
    *) die "no kernel '$1'; there are: 5.10 6.1 6.12 newest" ;;
    esac
}

# mirror LABEL: where this machine gets packages of that label from
mirror() {
    apt-get indextargets --format "\$(ORIGIN) \$(LABEL) \$(REPO_URI)" "Created-By: Packages" |
        awk -v label="$1" '$1 == "Debian" && $2 == label { print $3; exit }'
}

# in_suite PROGRAM ARGUMENT...: apt, of nothing but this kernel's suite
in_suite() {
    local program=$1
    shift
    "$program" -q -o Dir::Etc::sourcelist="$work/apt.sources" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$work/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache" \
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o APT::Sandbox::User=root "$@"
}

source_entry() {
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$1" "$2"
    [ ! -e "$keyring" ] || printf 'Signed-By: %s\n' "$keyring"
    printf '\n'
}

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fetch() {
    local name=$1 suite started=$SECONDS debian security packages image release
    suite=$(suite_of "$name")
    debian=$(mirror Debian)
    [ -n "$debian" ] || die "this machine's apt configuration names no Debian mirror (or 'apt-get update' never ran), and the kernels are Debian's"
    work=$kernels/$name.tmp
    rm -rf "$work"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/tree"
    source_entry "$debian" "$suite" >"$work/apt.sources"
    security=$(mirror Debian-Security)
    # Unstable has no security suite of its own.
    [ -z "$security" ] || [ "$suite" = sid ] || source_entry "$security" "$suite-security" >>"$work/apt.sources"

    say "$name: reading Debian's package lists of $suite"
    in_suite apt-get update >"$work/log" 2>&1 || {
        tail -n 5 "$work/log" >&2
        die "the package lists of $suite cannot be had: see above"
    }
    # The image of newer suites is split up; the version is in the names.
    packages=$(in_suite apt-cache --recurse --important depends linux-image-cloud-amd64 |
        grep -E '^linux-(image|base|binary|modules)-[0-9].*-cloud-amd64$' | sort -u)
    [ -n "$packages" ] || die "$suite has no linux-image-cloud-amd64"
    say "$name: downloading $(echo "$packages" | tr '\n' ' ')"
    # shellcheck disable=SC2086 # a list
    (cd "$work" && in_suite apt-get download $packages >>log 2>&1) || {
        tail -n 5 "$work/log" >&2
        die "the kernel of $suite cannot be downloaded: see above"
    }
    for image in "$work"/*.deb; do
        dpkg-deb -x "$image" "$work/tree"
    done

    # Older packages keep modules in /lib.
    [ ! -d "$work/tree/usr/lib/modules" ] || { mkdir -p "$work/tree/lib" && mv "$work/tree/usr/lib/modules" "$work/tree/lib/modules"; }
    release=$(basename "$work"/tree/lib/modules/*)
    mkdir "$work/done"
    for image in "$work/tree/boot/vmlinuz-$release" "$work/tree/lib/modules/$release/vmlinuz"; do
        [ ! -e "$image" ] || mv "$image" "$work/done/vmlinuz"
    done
    [ -e "$work/done/vmlinuz" ] || die "the packages of $release hold no vmlinuz: $packages"
    mv "$work/tree/lib" "$work/done/lib"
    depmod -b "$work/done" "$release"
    echo "$release" >"$work/done/release"
    rm -rf "${kernels:?}/$name"
    mv "$work/done" "$kernels/$name"
    rm -rf "$work"
    say "$name: $release, $((SECONDS - started)) s"
}

refresh=no
names=()
for argument in "$@"; do
    case $argument in
    --refresh) refresh=yes ;;
    *)
        suite_of "$argument" >/dev/null
        names+=("$argument")
        ;;
    esac
done
[ ${#names[@]} -gt 0 ] || names=(5.10 6.1 6.12 newest)

[ "$(dpkg --print-architecture)" = amd64 ] || die "only kernels for amd64 are booted, and this machine is $(dpkg --print-architecture)"
for program in apt-get dpkg-deb depmod; do
    command -v "$program" >/dev/null || die "$program is missing: run 'scripts/setup.sh vm'"
done

mkdir -p "$kernels"
exec 9>"$kernels/lock"
flock -n 9 || { say "another run fetches kernels; waiting for it" && flock 9; }
for name in "${names[@]}"; do
    [ "$refresh" = no ] && [ -e "$kernels/$name/release" ] || fetch "$name"
done
