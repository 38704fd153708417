# Everything that a person or CI runs. `make help` lists it.
CARGO ?= cargo
PROFILE := --profile lab
# Backtraces of expected errors would bury what a scenario prints.
export RUST_LIB_BACKTRACE ?= 0
# Root may make namespaces; any other user becomes root of a user namespace first.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,unshare --user --map-root-user --net --mount --pid --fork --mount-proc)

.PHONY: help demo test soak redteam lint build portable machine machine-quick packages

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: ## Serve a page from behind carrier-grade NAT, in namespaces of this machine; ends with one line of JSON.
	scripts/packages demo
	$(CARGO) build $(PROFILE) -p gateway -p forwarder -p causeway -p scenarios --bins
	$(AS_ROOT) $(or $(CARGO_TARGET_DIR),target)/lab/demo

build:
	$(CARGO) build $(PROFILE) --workspace --bins

test: ## Run every test and every scenario once, with reduced counts.
	scripts/packages test
	@if [ -x scripts/stack-packages ]; then scripts/stack-packages; fi
	rm -f target/lab-skipped
	$(MAKE) build
	cd tests/sim && $(CARGO) nextest run --no-fail-fast
	$(AS_ROOT) $(CARGO) nextest run --cargo-profile lab --workspace --no-fail-fast
	@if [ -s target/lab-skipped ]; then echo 'These scenarios did not run:'; cat target/lab-skipped; fi

soak: ## Run the scenarios with the full counts (about an hour), and this tree next to CAUSEWAY_PREVIOUS (HEAD~1).
	scripts/packages test
	scripts/stack-packages
	scripts/stack-packages logs
	scripts/packages browser
	$(MAKE) build
	previous=$$(scripts/previous) && CAUSEWAY_PREVIOUS_BINARIES=$$previous CAUSEWAY_SOAK=1 $(AS_ROOT) $(CARGO) nextest run --cargo-profile lab --profile soak -p policy -p scenarios -p stackctl --no-fail-fast

redteam: ## Try every attack of docs/ATTACKS.md with the full counts.
	scripts/packages test
	$(MAKE) build
	cd tests/sim && $(CARGO) nextest run --no-fail-fast -E "$$(../../scripts/attacks)"
	CAUSEWAY_SOAK=1 $(AS_ROOT) $(CARGO) nextest run --cargo-profile lab --profile soak --workspace --no-fail-fast -E "$$(scripts/attacks)"

portable: ## Type-check the forwarder for a Mac, and run unit and property tests for a 64-bit Pi under emulation.
	scripts/portable

machine: ## Run the checks of tests/machine in emulated Debian machines (MACHINE=debian12 CHECKS='wg netem' for some of them).
	scripts/machine

machine-quick: ## Install the edge on an emulated Debian 12 by README, and check page, WireGuard, guard and journal.
	scripts/machine quick

packages: ## Build Debian packages and static archives for amd64 and arm64, and check the packages with lintian; they are in target/packages.
	packaging/build
	packaging/lint

lint: ## Check format, words, lints, documentation and dependencies.
	$(CARGO) fmt --all --check
	$(CARGO) fmt --all --check --manifest-path tests/sim/Cargo.toml
	$(CARGO) fmt --all --check --manifest-path tests/fuzz/Cargo.toml
	$(CARGO) fmt --all --check --manifest-path benches/paths/Cargo.toml
	scripts/words
	scripts/columns
	$(CARGO) clippy $(PROFILE) --workspace --all-targets -- -D warnings
	cd tests/sim && $(CARGO) clippy --all-targets -- -D warnings
	cd benches/paths && $(CARGO) clippy -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' $(CARGO) doc $(PROFILE) --workspace --no-deps --document-private-items
	scripts/dependencies

include benches/bench.mk tests/fuzz/fuzz.mk
