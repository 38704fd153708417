# Benches; the root Makefile includes this.

BENCH ?=
BENCH_BIN := $(or $(CARGO_TARGET_DIR),target)/release
PROFILED ?= causeway-wg

.PHONY: path-matrix bench bench-build bench-peers bench-pictures bench-counts bench-counts-arm64 bench-counts-record bench-growth bench-scale profile

bench: ## Time the hot loops.
	$(CARGO) bench -p benches --bench micro

bench-build:
	benches/packages
	scripts/packages test
	$(CARGO) build --release -p benches -p tunnel -p gateway -p forwarder -p causeway -p agent --bins

bench-peers: bench-build ## Compare Causeway with its peers (about twenty minutes); BENCH='--only bulk ...' chooses.
	$(AS_ROOT) $(BENCH_BIN)/bench-peers $(BENCH)

bench-pictures: ## Draw the pictures of the recorded benches again, and write RESULTS.md.
	$(CARGO) build --release -p benches --bin bench-peers
	$(BENCH_BIN)/bench-peers --redraw

path-matrix: ## Compare downloads over bad paths with the kernel's TCP and smoltcp's (about twenty minutes); BENCH='--loss 1 ...' chooses.
	scripts/packages test
	$(CARGO) build --release -p tunnel -p gateway -p forwarder --bins
	cd benches/paths && $(CARGO) build --release --target-dir $(abspath $(or $(CARGO_TARGET_DIR),target))
	$(AS_ROOT) $(BENCH_BIN)/bench-paths $(BENCH)

bench-counts: ## Count the hot loops' instructions and hold them against the baseline.
	benches/packages
	$(CARGO) build --release -p benches --bin bench-counts
	$(BENCH_BIN)/bench-counts check

bench-counts-arm64: ## Count the hot loops' instructions for arm64 under emulation, and hold them against the baseline.
	scripts/portable counts

bench-growth: ## Count what cost grows with: peers, allowed-ips, flows, services (about half an hour); BENCH='--only flows ...' chooses.
	benches/packages
	$(CARGO) build --release -p bench-growth
	$(BENCH_BIN)/bench-growth $(BENCH)

bench-scale: ## Compare an edge with 1,000 peers, 100,000 prefixes and 100,000 flows with an edge with one peer.
	$(CARGO) build --release -p benches --bin bench-counts
	$(BENCH_BIN)/bench-counts scale

bench-counts-record:
	$(CARGO) build --release -p benches --bin bench-counts
	$(BENCH_BIN)/bench-counts record

# Frame pointers, so that perf knows who called.
profile: ## Show where the cycles go; PROFILED=gateway for the daemons, BENCH='--load up' (or request, connect).
	benches/packages
	RUSTFLAGS="-C force-frame-pointers=yes" $(CARGO) build --release -p benches -p tunnel -p gateway -p forwarder --bins \
		--target-dir $(or $(CARGO_TARGET_DIR),target)/profile
	$(AS_ROOT) $(or $(CARGO_TARGET_DIR),target)/profile/release/bench-peers --profile $(PROFILED) $(BENCH)
