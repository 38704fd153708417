# Fuzzing; the root Makefile includes this. The corpus is replayed by `make test` (package `replay`).

FUZZ_SECONDS ?= 3600
FUZZ_TARGETS ?= split coalesce virtio_header datagram damaged_datagram inner_packet config_toml endpoint uapi proxy_header upstream fragments helper_request routeros wg_quick link_frame link_session
# Coverage for the fuzzer and an address sanitizer. These flags are unstable; the stable compiler
# takes them with RUSTC_BOOTSTRAP=1.
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address --cfg fuzzing
FUZZ_HOST := $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_DIR := $(or $(CARGO_TARGET_DIR),tests/fuzz/target)

.PHONY: fuzz fuzz-build

fuzz-build:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS='$(FUZZ_FLAGS)' $(CARGO) build --release --manifest-path tests/fuzz/Cargo.toml \
		--target $(FUZZ_HOST) --target-dir $(FUZZ_DIR)

fuzz: fuzz-build ## Fuzz every target for FUZZ_SECONDS (an hour each); FUZZ_TARGETS chooses.
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p tests/fuzz/found/$$target; \
		echo "fuzz: $$target for $(FUZZ_SECONDS) s"; \
		$(FUZZ_DIR)/$(FUZZ_HOST)/release/$$target tests/fuzz/found/$$target tests/fuzz/corpus/$$target \
			-max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
			-artifact_prefix=tests/fuzz/found/$$target- || exit 1; \
	done
