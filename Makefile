# SPDX-License-Identifier: Apache-2.0
# The verbs of the README. Everything else is CMake: see CMakePresets.json.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test build deps check-model test-asan test-tsan bench bench-kmeans bench-matmul \
  bench-spill bench-peers torture-spill wheel clean

# A newer CMake that scripts/deps put into .venv, where the system's is too old for the presets.
export PATH := $(PATH):$(CURDIR)/.venv/bin
CMAKE = $(shell [ -x .venv/bin/cmake ] && echo .venv/bin/cmake || echo cmake)
CTEST = $(shell [ -x .venv/bin/ctest ] && echo .venv/bin/ctest || echo ctest)
PYTHON = $(CURDIR)/.venv/bin/python
DEV = $(CURDIR)/build/dev

help:
	@echo "make demo [INPUT=photo.png]   install what is missing, build, run the main job"
	@echo "make test                     build and run all tests"
	@echo "make bench                    get and put beside their floors"
	@echo "make bench-kmeans             k-means of the paper, data shared in seven ways (minutes)"
	@echo "make bench-matmul             blocked matrix product of the paper, likewise (minutes)"
	@echo "make bench-spill              spilling to a pool beside a TCP stream, and a product out of memory"
	@echo "make bench-peers              Forebay beside its peers, which it installs into build/peers"
	@echo "make check-model              check the pin protocol exhaustively (minutes)"
	@echo "make test-asan, test-tsan     the tests under one sanitizer"
	@echo "make torture-spill            kill a pool 1000 times under a daemon that spills (minutes)"
	@echo "make wheel                    build the wheel and run the demo from an empty environment"
	@echo "make clean                    remove build/ (not .venv)"

deps:
	@scripts/deps

# $(1): preset, $(2): targets, none for all. Quiet where nothing is to be done.
define configure_and_build
	@[ -f build/$(1)/build.ninja ] || $(CMAKE) --preset $(1) >build.log || { cat build.log; exit 1; }
	@rm -f build.log
	$(CMAKE) --build --preset $(1) $(if $(2),--target $(2))
endef

build: deps
	$(call configure_and_build,dev)

demo: deps
	$(call configure_and_build,dev,forebayd forebay_tool forebay_python forebay_python_daemon demo_worker)
	@PYTHONPATH=$(DEV)/python $(PYTHON) bench/demo/quantise.py --worker $(DEV)/bin/demo_worker \
	  $(if $(INPUT),--input "$(INPUT)")

test: build
	$(CTEST) --preset dev
	cd tests/python && PYTHONPATH=$(DEV)/python $(PYTHON) -m pytest
	tests/model/check quick
	$(MAKE) test-asan test-tsan

# AddressSanitizer, UndefinedBehaviorSanitizer and their leak check: all C++ tests.
test-asan: deps
	$(call configure_and_build,asan)
	$(CTEST) --preset asan

# ThreadSanitizer sees one process: the tests in which the daemon is a thread.
test-tsan: deps
	$(call configure_and_build,tsan,thread_tests)
	$(CTEST) --preset tsan -L thread

# Nothing that a pool has acknowledged may be lost. KILLS=100 for fewer.
torture-spill: deps
	$(call configure_and_build,dev,forebayd forebay_poold forebay_tool process_tests)
	FOREBAY_POOL_KILLS=$(or $(KILLS),1000) $(DEV)/bin/process_tests -tc="pools that are killed again*"

check-model: build
	tests/model/check full
	FOREBAY_EXPLORE_DEEPER=1 $(DEV)/bin/unit_tests -ts="protocol under the memory model"

bench: build
	@PYTHONPATH=$(DEV)/python $(PYTHON) bench/run.py --programs $(DEV)/bin

# The benchmarks of the founding paper. BENCH="--quick" or other options replace what is run.
BENCH_TARGETS = forebayd forebay_tool forebay_python forebay_python_daemon kmeans_worker matmul_worker
bench-kmeans bench-matmul: bench-%: deps
	$(call configure_and_build,dev,$(BENCH_TARGETS))
	@PYTHONPATH=$(DEV)/python $(PYTHON) bench/$*/run.py --programs $(DEV)/bin \
	  $(or $(BENCH),--all --json build/bench/$*.json --plot-folder build/bench)

# BENCH="--transport 'plain tcp'" or other options go to the first alone, BENCH=--quick to both.
SPILL_TARGETS = forebayd forebay_poold forebay_tool forebay_python forebay_python_daemon spill_worker
bench-spill: deps
	$(call configure_and_build,dev,$(SPILL_TARGETS))
	@PYTHONPATH=$(DEV)/python $(PYTHON) bench/spill/run.py --programs $(DEV)/bin \
	  $(or $(BENCH),--json build/bench/spill.json)
	@PYTHONPATH=$(DEV)/python $(PYTHON) bench/matmul/out_of_core.py --programs $(DEV)/bin \
	  $(filter --quick,$(BENCH)) --json build/bench/matmul-out-of-core.json \
	  --plot build/bench/matmul-out-of-core.png

# Writes the plots too: bench/peers/latency.png and throughput.png.
bench-peers: build
	@PYTHONPATH=$(DEV)/python $(PYTHON) bench/peers/run.py --programs $(DEV)/bin

# The wheel, installed into an environment that has nothing else of ours; the C++ worker of the demo is
# built on what lies in the wheel.
WHEEL_PYTHON = build/wheel-env/bin/python
wheel: deps
	rm -rf build/wheel build/wheel-env build/wheel-worker
	$(PYTHON) -m pip wheel -q --disable-pip-version-check --no-deps -w build/wheel .
	python3 -m venv build/wheel-env
	$(WHEEL_PYTHON) -m pip install -q --disable-pip-version-check -c requirements.txt build/wheel/*.whl \
	  scikit-learn pillow rich
	$(CMAKE) -S bench/demo -B build/wheel-worker -G Ninja -DCMAKE_BUILD_TYPE=Release \
	  -Dforebay_DIR=$$($(WHEEL_PYTHON) -I -c 'import forebay; print(forebay.get_cmake_dir())') >/dev/null
	$(CMAKE) --build build/wheel-worker
	build/wheel-env/bin/forebayd --version
	env -u PYTHONPATH $(WHEEL_PYTHON) bench/demo/quantise.py --worker build/wheel-worker/demo_worker
	@ls -l build/wheel/*.whl

clean:
	rm -rf build
