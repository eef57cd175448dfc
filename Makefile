# Each target sets up what it needs in .venv, with the versions of constraints.txt. Pass arguments on
# with ARGS, as in `make test ARGS="-k layouts"`; DEBUG=1 builds the kernels for a debugger.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
comma := ,
SOURCES := setup.py pyproject.toml $(shell find csrc)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo paper-digits paper-fashion test test-all tritons compat sanitize lint bench docs gpu build clean FORCE

help: ## show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 19

demo: $(STAMPS)/distill ## distil a small network on handwritten digits, with and without the AMD loss
	rm -rf runs/demo
	$(BIN)/amd-fused sweep --recipe demo $(ARGS)
	$(BIN)/amd-fused backends --time

paper-digits: $(STAMPS)/distill ## all methods on handwritten digits, five seeds: table and report
	$(BIN)/amd-fused sweep --recipe digits --output-dir runs/paper-digits $(ARGS)

# Stopped at any time, it goes on when started again.
paper-fashion: $(STAMPS)/distill ## all methods on Fashion-MNIST (dataset-fashion-mnist), five seeds: table and report
	$(BIN)/amd-fused sweep --recipe fashion --output-dir runs/paper-fashion $(ARGS)

test: $(STAMPS)/test-distill-vision ## run the tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
		--durations 10 $(ARGS)

test-all: ## run the tests, the exhaustive ones with them, and the losses' with sanitizers
	$(MAKE) test ARGS='-m "" $(ARGS)'
	$(BIN)/python tests/support/sanitize.py --optional

# Into folders of their own, beside the Triton of constraints.txt.
tritons: $(STAMPS)/test-distill-vision ## compile the kernels for sm_90 with Triton 3.4, 3.6 and the newest
	rm -rf build/tritons
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/tritons/3.4 triton==3.4.*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/tritons/3.6 triton==3.6.*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/tritons/newest triton
	TRITONS=build/tritons/3.4:build/tritons/3.6:build/tritons/newest $(BIN)/python -m pytest \
		tests/losses/test_triton_compile.py -m '' -k 'other_tritons or sizes_of_one' $(ARGS)

# As pip is configured: with a limit on torch's version, "newest" is the newest within it.
compat: $(STAMPS)/build ## run a core set with every Python, torch and Triton promised; docs/versions.md
	$(BIN)/python tests/compat/matrix.py $(ARGS)

sanitize: $(STAMPS)/test-distill-vision ## run the losses' tests with AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/python tests/support/sanitize.py $(ARGS)

lint: $(STAMPS)/dev-distill-vision ## check format, style, types and what imports what
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	find csrc tests/cuda_on_host -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror

bench: $(STAMPS)/bench ## measure the losses against PyTorch and the speed of memory
	$(BIN)/python -m benchmarks $(or $(ARGS),all)

# The pages and what they show, as they lie to each other in the repository.
docs: $(STAMPS)/docs ## build the documentation into build/site, and refuse a link that leads nowhere
	rm -rf build/docs build/site
	mkdir -p build/docs/benchmarks
	cp -r README.md CONTRIBUTING.md CHANGELOG.md docs examples build/docs
	cp -r benchmarks/results build/docs/benchmarks
	rm -rf build/docs/examples/__pycache__
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build $(ARGS)

# Nothing is installed: it takes the torch that PYTHON has. Where the sources came without their
# repository, AMD_FUSED_COMMIT names the commit.
gpu: ## on a machine with an NVIDIA GPU: its tests and benchmarks, STAGE=a, then b; results into OUT
	PYTHONPATH=. $(PYTHON) -m benchmarks gpu $(or $(STAGE),a) $(if $(OUT),--out $(OUT)) $(ARGS)

build: $(STAMPS)/build ## install the package in place, its kernels compiled

clean: ## remove .venv, build outputs and caches
	rm -rf $(VENV) build dist *.egg-info amd_fused/_build.json amd_fused/_*.so
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/venv constraints.txt
	@echo "Installing torch and what the kernels are built with (a minute or more)"
	@$(PIP) torch setuptools ninja
	@touch $@

$(STAMPS)/build: $(STAMPS)/torch $(STAMPS)/settings $(SOURCES)
	@echo "Compiling the kernels (a minute or so)"
	@$(PIP) --no-build-isolation --no-deps --editable .
	@$(BIN)/python -W ignore -c 'import amd_fused; print("Backend cpp:", amd_fused.backends()["cpp"])'
	@touch $@

# The extras of a stamp's name, with - between them.
$(STAMPS)/distill $(STAMPS)/test-distill-vision $(STAMPS)/dev-distill-vision $(STAMPS)/bench $(STAMPS)/docs: \
		$(STAMPS)/%: pyproject.toml constraints.txt | $(STAMPS)/build
	@echo "Installing the extras: $(subst -, and ,$*)"
	@$(PIP) --no-build-isolation --editable '.[$(subst -,$(comma),$*)]'
	@touch $@

# Changes with the settings, so that `make build DEBUG=1` builds again, and `make build` once a compiler
# was installed.
$(STAMPS)/settings: FORCE | $(STAMPS)/venv
	@echo 'DEBUG=$(DEBUG) AMD_FUSED_CPP=$(AMD_FUSED_CPP) AMD_FUSED_CUDA=$(AMD_FUSED_CUDA)' > $@.new
	@echo 'CXX=$(CXX) CUDA_HOME=$(CUDA_HOME) $(TORCH_CUDA_ARCH_LIST)' >> $@.new
	@command -v c++ g++ clang++ nvcc >> $@.new || true
	@cmp -s $@.new $@ || cp $@.new $@
