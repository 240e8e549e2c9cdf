# The front door of heed. Everything is built below build/, by the presets of CMakePresets.json.
# `make` alone tells what there is.

SHELL = bash
JOBS ?= $(shell nproc)
# Compile jobs take up to 1 GB each, tests little.
CTEST = ctest -j $(JOBS) --preset
SOURCES = $(shell find include tests bench examples \( -name '*.hpp' -o -name '*.cpp' -o -name '*.inl' \))

# The compiler is the one that setup.sh finds fit, or CXX of the environment or command line.
configure = CXX="$$(cmake/setup.sh compiler)" cmake --preset $(1)
build = cmake --build --preset $(1) -j $(JOBS)

# Builds all it can and tests all of that, so that one broken file hides nothing; ctest's summary
# is the last word, and the exit status tells of both.
define build_and_test
	@$(call configure,$(1))
	@$(call build,$(1)) -- -k 0; built=$$?; $(CTEST) $(1) && exit $$built
endef

.DEFAULT_GOAL = help
.PHONY: help demo test campaign bench memory compilers peers conformance asan tsan aarch64 format \
    format-check tidy clean

help: ## show this
	@echo "heed: attention for C++. What you can make:"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: CXX=clang++ (another compiler, in a fresh build/), JOBS=$(JOBS)."

demo: ## attention, a chemistry model, sentences, a training (REACTION=, QUESTION=, TEXT=, DEMO_SMALL=1)
	@cmake/setup.sh demo
	@$(call configure,release)
	@$(call build,release) --target heed_examples
	@WEIGHTS="$(WEIGHTS)" REACTION='$(REACTION)' QUESTION="$(QUESTION)" TEXT="$(TEXT)" \
	    DEMO_SMALL="$(DEMO_SMALL)" examples/run_demo.sh build/release

test: ## build the tests and examples with assertions, and run all tests
	@cmake/setup.sh test
	$(call build_and_test,dev)

campaign: ## random attentions against the oracle in double (CASES=200000, SEED=; prints progress)
	@cmake/setup.sh test
	@$(call configure,dev)
	@$(call build,dev) --target heed_tests_attention
	@HEED_TEST_CASES=$(or $(CASES),200000) HEED_TEST_SEED=$(SEED) \
	    build/dev/tests/heed_tests_attention --gtest_filter='Oracle.*'

bench: ## measure: a table, build/bench/bench.json and a plot
	@cmake/setup.sh bench
	@$(call configure,bench)
	@$(call build,bench)
	@bench/run.sh build/bench

memory: ## what an attention takes by length, beside one that keeps its weights
	@cmake/setup.sh bench
	@$(call configure,bench)
	@$(call build,bench) --target heed_bench_memory
	@build/bench/bench/heed_bench_memory

compilers: ## speed by compiler and flags, and the time that compiling takes; some minutes
	@cmake/setup.sh compilers
	@bench/compilers/run.sh build/compilers

peers: ## compare with PyTorch and ONNX Runtime (PEERS_ARGS=--quick, PYTHON=one that has them)
	@cmake/setup.sh bench
	@$(call configure,bench)
	@$(call build,bench) --target heed_peer
	@PYTHON="$(PYTHON)" bench/peers/run.sh build/peers $(PEERS_ARGS)

conformance: ## run the ONNX Attention cases in CASES=DIR
	@test -n "$(CASES)" || { echo "usage: make conformance CASES=DIR" >&2; exit 2; }
	@cmake/setup.sh test
	@$(call configure,dev)
	@$(call build,dev) --target heed_conformance
	@build/dev/tests/heed_conformance "$(CASES)"

asan: ## the tests under the address and undefined-behaviour sanitizers
	@cmake/setup.sh test
	$(call build_and_test,asan-ubsan)

tsan: ## the tests under the thread sanitizer
	@cmake/setup.sh test
	$(call build_and_test,tsan)

aarch64: ## the tests cross-built for 64-bit Arm, run under qemu
	@cmake/setup.sh aarch64
	@CXX= cmake --preset aarch64
	@$(call build,aarch64) -- -k 0; built=$$?; $(CTEST) aarch64 && exit $$built

format: ## rewrite all sources as .clang-format says
	@cmake/setup.sh format
	@clang-format -i $(SOURCES)

format-check: ## fail if `make format` would change something
	@cmake/setup.sh format
	@clang-format --dry-run -Werror $(SOURCES)

tidy: ## clang-tidy on every header and example
	@cmake/setup.sh tidy
	@$(call configure,dev)
	@set -o pipefail; run-clang-tidy -quiet -p build/dev -j $(JOBS) \
	    'stranger/alone/|examples/.*\.cpp$$' 2>&1 | \
	    { grep -vE 'warnings? generated\.$$|^clang-tidy|^$$' || true; }

clean: ## remove build/
	@rm -rf build
