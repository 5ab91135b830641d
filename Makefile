# Blackstart: what can be done here. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The product is one static file. Procedural macros cannot be linked statically, so the target is
# named although it is the host's: then the flag holds for the product only.
TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')
TARGET = $(or $(CARGO_TARGET_DIR),target)
BINARY = $(TARGET)/release/blackstart

# BPF and network namespaces need root; cargo itself does not.
SUDO = $(if $(filter 0,$(shell id -u)),,sudo -E)
AS_ROOT = $(if $(SUDO),CARGO_TARGET_$(shell tr a-z- A-Z_ <<<'$(TRIPLE)')_RUNNER='$(SUDO)')

# Where the lab's tests say what they have shown of which case.
CASES = $(abspath $(TARGET))/cases

# Worlds are cheap, but each has servers, and the tests measure time: no more at once than this.
TEST_THREADS ?= 2

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: demo
demo: ## Install what is needed, build, and play the example (examples/demo)
	scripts/install-deps demo
	$(MAKE) --no-print-directory build
	cargo build --locked -p blackstart-lab --bin blackstart-demo-world
	$(SUDO) $(TARGET)/debug/blackstart-demo-world $(BINARY) $(TARGET)/demo

.PHONY: demo-history
demo-history: build ## Record the demo's history anew: tests/data/demo-history
	cargo build --locked -p blackstart-lab --bin blackstart-record-demo
	$(SUDO) $(TARGET)/debug/blackstart-record-demo $(BINARY)

.PHONY: build
build: ## Build the released binary: target/release/blackstart, one static file
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $(TRIPLE) -p blackstart
	mkdir -p $(TARGET)/release
	ln -f $(TARGET)/$(TRIPLE)/release/blackstart $(BINARY)

.PHONY: test
test: ## Install what is needed and run every check and test
	scripts/install-deps test
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory build
	$(MAKE) --no-print-directory unit
	FUZZ_RUNS=20000 scripts/fuzz
	$(MAKE) --no-print-directory lab
	$(MAKE) --no-print-directory docs licences

.PHONY: unit
unit: ## Run the tests of the product's crates
	$(AS_ROOT) cargo test --locked --workspace --exclude blackstart-lab

.PHONY: lab
lab: ## Run the tests that drive the released binary, and those that hold the workspace to its rules
	$(SUDO) rm -rf $(CASES)
	$(AS_ROOT) BLACKSTART_CASES=$(CASES) BLACKSTART_BIN=$(abspath $(BINARY)) cargo test --locked -p blackstart-lab -- --test-threads=$(TEST_THREADS)
	BLACKSTART_CASES=$(CASES) cargo run --locked -q -p blackstart-lab --bin blackstart-coverage check

.PHONY: coverage
coverage: ## Make docs/coverage.md of what the tests said (after `make lab`, and `make vm` for the other kernels)
	BLACKSTART_CASES=$(CASES) cargo run --locked -q -p blackstart-lab --bin blackstart-coverage write

.PHONY: fuzz
fuzz: ## Fuzz every parser for FUZZ_SECONDS (60) each, with sanitizers; FUZZ_KEEP=1 makes the corpora anew
	scripts/install-deps test
	scripts/fuzz

.PHONY: bench
bench: ## Measure every bar: prints the table, writes the raw results to benches/data
	scripts/install-deps bench
	$(MAKE) --no-print-directory build
	cargo build --locked -p blackstart-lab --bin blackstart-bench
	$(SUDO) env BLACKSTART_BIN=$(abspath $(BINARY)) $(TARGET)/debug/blackstart-bench --write benches/data

.PHONY: bench-endurance
bench-endurance: ## Measure what takes long: killed supervisors, a million connects, a thousand runs, traffic beside the guard
	scripts/install-deps bench
	$(MAKE) --no-print-directory build
	cargo build --locked -p blackstart-lab --bin blackstart-bench
	$(SUDO) env BLACKSTART_BIN=$(abspath $(BINARY)) $(TARGET)/debug/blackstart-bench --write benches/data endurance

.PHONY: bench-counts
bench-counts: ## Compare a million decisions, millions of messages, graphs, and a hundred enforced repeats (minutes)
	scripts/install-deps test
	$(MAKE) --no-print-directory build
	$(AS_ROOT) scripts/bench-counts

.PHONY: bench-agent
bench-agent: ## Measure the agent: starts by way of it, 200 idle guards, agents killed under load
	scripts/install-deps bench
	$(MAKE) --no-print-directory build
	cargo build --locked -p blackstart-lab --bin blackstart-bench
	$(SUDO) env BLACKSTART_BIN=$(abspath $(BINARY)) $(TARGET)/debug/blackstart-bench --write benches/data agent

.PHONY: bench-graph
bench-graph: ## Measure the graph's bar: loops, order and levels of 100,000 services
	cargo run --release --locked -p blackstart-core --example graph_scale

.PHONY: bench-store
bench-store: ## Measure the history's bars: 100,000 runs with 100 flows each (minutes; 2 GB of disk)
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	    cargo run --release --locked -p blackstart-store --example history_scale -- "$$dir"

.PHONY: bench-html
bench-html: ## Measure the page's bar: a large report opens and filters in a browser
	scripts/install-deps test
	$(MAKE) --no-print-directory build
	cargo build --locked -p blackstart-lab --bin blackstart-bench-html
	$(SUDO) env BLACKSTART_BIN=$(abspath $(BINARY)) $(TARGET)/debug/blackstart-bench-html benches/data

# The machines of the kernel matrix are x86_64 and have nothing but what is copied into them.
VM_TRIPLE = x86_64-unknown-linux-gnu

.PHONY: vm
vm: ## Play the stories of the kernel matrix in emulated machines (minutes; fetches kernels once)
	scripts/install-deps vm
	scripts/vm/fetch-kernels >/dev/null
	$(MAKE) --no-print-directory build
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --target $(VM_TRIPLE) -p blackstart-lab --bin blackstart-lab-vm
	BLACKSTART_BIN=$(BINARY) BLACKSTART_LAB_VM=$(TARGET)/$(VM_TRIPLE)/debug/blackstart-lab-vm VM_LOGS=$(TARGET)/vm scripts/vm/run
	cargo run --locked -q -p blackstart-lab --bin blackstart-coverage check kernels

.PHONY: vm-arm64
vm-arm64: ## The same on arm64, cross-built and emulated on amd64 (half an hour the first time)
	scripts/install-deps vm-arm64
	scripts/vm/fetch-kernels arm64 busybox-arm64 >/dev/null
	scripts/vm/build-arm64
	VM_LOGS=$(TARGET)/vm scripts/vm/run arm64
	cargo run --locked -q -p blackstart-lab --bin blackstart-coverage check kernels

.PHONY: verifier-table
verifier-table: ## Keep what the verifiers of the matrix looked at (after `make vm` and `make vm-arm64`)
	{ echo "# make vm, make vm-arm64; $$(date -u +%F), commit $$(git describe --always --dirty): instructions that each kernel's verifier looked at, of each program of a policy that uses them all, and of the agent; at most 250,000."; \
	    cat $(TARGET)/vm/*.verifier; } >benches/data/$$(date -u +%F)-verifier.txt

.PHONY: direction
direction: ## Check which crate may use which, and where unsafe may be
	cargo test --locked -p blackstart-lab --test workspace

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: lint
lint: ## Check format and lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: docs
docs: ## Build the API documentation; a warning is an error
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

.PHONY: licences
licences: ## Check licences, sources and who may depend on what (no advisories: they need the network)
	cargo fetch --locked
	cargo fetch --locked --manifest-path fuzz/Cargo.toml
	cargo deny --offline --locked check licenses bans sources
	cargo deny --offline --locked --manifest-path fuzz/Cargo.toml check licenses bans sources
