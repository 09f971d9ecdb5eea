# The daily commands; `make help` lists them. Everything that needs the kernel runs as root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where setup puts what it installs; scripts/setup.sh and .ci/run use the same path.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(CURDIR)/.tools/go/bin:$(PATH):/usr/local/go/bin:/usr/sbin:/sbin

TARGET := $(or $(CARGO_TARGET_DIR),target)
MACHINE := $(shell uname -m)-unknown-linux-gnu

KERNELS ?= 5.10 6.1 6.12 newest

.PHONY: help setup build demo test e2e test-kernels bench bench-cluster lint plugin image clean root

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install what is missing (compiler, eBPF linker, Go, CNI plugins); says what and why
	@scripts/setup.sh

# One profile for demo and test, so that nothing is compiled twice. The kernel programs are always optimised.
build: setup ## compile everything: agent, plugin, lab
	cargo build --locked

demo: root build ## a flannel cluster on this machine: decorative policies, then enforced ones
	@$(TARGET)/debug/vethwall-demo

test: root build ## every test, those that need root and network namespaces included
	@scripts/setup.sh runtime cluster chart
	cargo test --locked --workspace --no-fail-fast

# Building Kubernetes, etcd, flannel and helm takes ten minutes on two cores, once.
e2e: root build image ## a real cluster on this machine: installed by helm, enforced, killed, upgraded, uninstalled
	@scripts/setup.sh runtime cluster
	@$(TARGET)/debug/vethwall-e2e

# Minutes each: everything is emulated. KERNELS="5.10 newest" chooses some, FILTER=kernel::policy some of the tests.
test-kernels: root build ## the tests of the datapath on other kernels, in virtual machines; KERNELS="5.10 newest" chooses
	@scripts/setup.sh vm
	@scripts/kernels.sh $(KERNELS)
	cargo test --locked --package vethwall-tests --test main --no-run
	@$(TARGET)/debug/vethwall-vm --filter "$(FILTER)" $(KERNELS)

bench: root setup ## nanoseconds a packet, pods that talk beside iptables and nftables, the start of a pod, a compilation
	cargo build --locked --release
	@$(TARGET)/release/vethwall-bench packets
	@$(TARGET)/release/vethwall-bench start
	@$(TARGET)/release/vethwall-bench memory
	@$(TARGET)/release/vethwall-bench live
	cargo bench --locked --package vethwall-policy --bench sizes --bench compile

bench-cluster: root setup ## from a change at a real API server to the packet; memory, processor, bytes (20 minutes)
	@scripts/setup.sh cluster
	cargo build --locked --release
	@$(TARGET)/release/vethwall-bench cluster --most

lint: setup ## what .ci/run checks besides the tests
	@.ci/run format clippy dependencies sizes docs deny typos shell

# Static, because it runs on nodes whose C library is not ours to choose. The target is named so that the flag does
# not reach what runs on this machine while compiling (procedural macros cannot be static).
# Where the sources lie is left out of the binaries: the same sources give the same bytes.
STATIC := RUSTFLAGS="-C target-feature=+crt-static \
	--remap-path-prefix=$(CURDIR)=/vethwall --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo"

plugin: setup ## the CNI plugin as one static binary
	$(STATIC) cargo build --locked --profile plugin --package vethwall-cni --target $(MACHINE)
	@ls -l $(TARGET)/$(MACHINE)/plugin/vethwall-cni

image: plugin ## the agent's image from scratch, as target/image/vethwall-*.tar; docker, podman and buildah are given it
	$(STATIC) cargo build --locked --release --package vethwall --target $(MACHINE)
	cargo run --locked --quiet --package vethwall-image -- --out $(TARGET)/image \
		--agent $(TARGET)/$(MACHINE)/release/vethwall --plugin $(TARGET)/$(MACHINE)/plugin/vethwall-cni
	@archive=$$(ls -t $(TARGET)/image/vethwall-*.tar | head -n 1); \
	for tool in docker podman; do \
		! $$tool info >/dev/null 2>&1 || $$tool load --input $$archive; \
	done; \
	! command -v buildah >/dev/null || buildah pull --quiet oci-archive:$$archive

clean: ## remove what was built; what setup installed outside this folder stays
	cargo clean
	rm -rf .tools

root:
	@[ "$$(id -u)" = 0 ] || { echo "make: this target makes network namespaces and loads eBPF programs, so it needs root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }
