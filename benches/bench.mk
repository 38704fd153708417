# Benches; the root Makefile includes this.

BENCH ?=
BENCH_BIN := $(or $(CARGO_TARGET_DIR),target)/release
PROFILED ?= causeway-wg

.PHONY: bench bench-build bench-peers bench-counts bench-counts-record profile

bench: ## Time the hot loops.
	$(CARGO) bench -p benches --bench micro

bench-build:
	benches/packages
	scripts/packages test
	$(CARGO) build --release -p benches -p tunnel -p gateway -p forwarder --bins

bench-peers: bench-build ## Measure Causeway beside its peers (about half an hour); BENCH='--only bulk ...' chooses.
	$(AS_ROOT) $(BENCH_BIN)/bench-peers $(BENCH)

bench-counts: ## Count the hot loops' instructions and hold them against the baseline.
	benches/packages
	$(CARGO) build --release -p benches --bin bench-counts
	$(BENCH_BIN)/bench-counts check

bench-counts-record:
	$(CARGO) build --release -p benches --bin bench-counts
	$(BENCH_BIN)/bench-counts record

profile: bench-build ## Show where the cycles go in a bulk transfer; PROFILED=gateway for the daemons, BENCH=--upload.
	$(AS_ROOT) $(BENCH_BIN)/bench-peers --profile $(PROFILED) $(BENCH)
