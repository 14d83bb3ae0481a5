# Two commands for a newcomer: `make demo` and `make test`. `make help` lists the others. Nothing here needs root.
#
# PYTHON       which interpreter makes the virtual environment (3.11 to 3.13; found by itself)
# PIP_ARGS     extra arguments for pip, such as --index-url https://mirror.example/simple or --no-index --find-links DIR
# COMPARE=1    also install what the tests can compare with but whose licence forbids commercial use (smplx)
# TORCH_INDEX  where to find the CPU build of torch when pip's own sources lack it: PyTorch's installation page names it

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c \
	'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
PIP_ARGS ?=
TORCH_INDEX ?=
OUT ?= out

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
NATIVE_SOURCES := $(wildcard setup.py) $(shell find cuda_ext -type f 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help demo test check bench native native-built format clean distclean

help:
	@echo "make demo    set up, reconstruct a portrait, say where the report is"
	@echo "make test    set up what is missing and run the tests (ARGS='-k camera' to choose)"
	@echo "make check   lint, format, types, layers; the native library compiles, its CUDA part too where nvcc is"
	@echo "make bench   time every op and the whole command (ARGS='rasterize' to choose)"
	@echo "make native  build the native library again"
	@echo "make format  let ruff tidy the code"
	@echo "make clean   remove what was built; make distclean removes $(VENV) too"

# --- the environment: each step leaves a stamp and is not repeated until what it read changes ------------------------

$(VENV)/.stamp-venv:
	@test -n "$(PYTHON)" || { echo "headrecon needs Python 3.11, 3.12 or 3.13 with its venv module, and found none." \
		"Install one (Debian: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@echo "Making $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The CPU build of torch is a tenth of what PyPI serves Linux by default, which is built for CUDA. A torch that is
# already there is kept. Elsewhere than on Linux PyPI's build is the CPU build. See docs/dependencies.md.
$(VENV)/.stamp-torch: $(VENV)/.stamp-venv constraints.txt
	@if $(BIN)/python -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '$(TORCH_VERSION)')" 2>/dev/null; then \
		: ; \
	elif [ "$$(uname -s)" = Linux ]; then \
		echo "Installing torch $(TORCH_VERSION), CPU build ..."; \
		$(PIP) torch==$(TORCH_VERSION)+cpu 2>$(VENV)/torch.log \
		|| { [ -n "$(TORCH_INDEX)" ] && $(PIP) --extra-index-url $(TORCH_INDEX) torch==$(TORCH_VERSION)+cpu 2>>$(VENV)/torch.log; } \
		|| { echo "No CPU build found; installing the default build, which is gigabytes larger on Linux (make TORCH_INDEX=... avoids it, see docs/dependencies.md)."; $(PIP) torch==$(TORCH_VERSION); }; \
	else \
		echo "Installing torch $(TORCH_VERSION) ..."; $(PIP) torch==$(TORCH_VERSION); \
	fi
	@touch $@

$(VENV)/.stamp-install: $(VENV)/.stamp-torch pyproject.toml $(NATIVE_SOURCES)
	@echo "Installing headrecon and building its native library ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-install pyproject.toml constraints.txt
	@echo "Installing what the tests and checks need ..."
	@$(PIP) -e '.[dev,view]'
	@touch $@

# --- what people run --------------------------------------------------------------------------------------------------

# The portrait is NASA's of Eileen Collins, in the public domain, and comes inside scikit-image.
$(OUT)/astronaut.png: | $(VENV)/.stamp-install
	@mkdir -p $(OUT)
	@$(BIN)/python -c "import skimage.data as d; from PIL import Image; Image.fromarray(d.astronaut()).save('$@')"

demo: $(VENV)/.stamp-install $(OUT)/astronaut.png
	@$(BIN)/headrecon reconstruct $(OUT)/astronaut.png --out $(OUT)/demo --overwrite
	@echo
	@echo "Open this in a browser:  $(abspath $(OUT)/demo/report.html)"
	@echo "Your own photo:          $(BIN)/headrecon reconstruct PHOTO.jpg --out $(OUT)/me"

# Carries a licence for non-commercial research only, hence asked for by name (CI does).
$(VENV)/.stamp-compare: $(VENV)/.stamp-dev
	@$(PIP) -e '.[dev,view,compare]'
	@touch $@

test: $(VENV)/.stamp-dev $(if $(COMPARE),$(VENV)/.stamp-compare)
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory native-built
	@$(BIN)/python setup.py -q check_cuda

bench: $(VENV)/.stamp-install
	@$(BIN)/headrecon bench $(ARGS)
	$(if $(ARGS),,@$(BIN)/headrecon bench command --preset draft --preset default --preset high)

native:
	@rm -f $(VENV)/.stamp-install
	@$(MAKE) --no-print-directory HEADRECON_REQUIRE_NATIVE=1 native-built

# With HEADRECON_REQUIRE_NATIVE=1 a C++ error fails the installation; without, it only means slower rendering.
check native-built: export HEADRECON_REQUIRE_NATIVE = 1
native-built: $(VENV)/.stamp-install
	@$(BIN)/python -c "from headrecon.ops import _native; d = _native.describe(); print('native library:', \
	' '.join(d['isas_compiled']) or d['hint'], '-', d['path']); raise SystemExit(not d['built'])"
	@$(BIN)/python -c "from headrecon.ops import _native; d = _native.describe(); print('CUDA part:', \
	' '.join(d['cuda_archs']) or d['cuda_hint'] or 'not built (needs nvcc)'); raise SystemExit(bool(d['cuda_hint']))"

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist $(OUT) *.egg-info .pytest_cache .ruff_cache .import_linter_cache headrecon/ops/lib
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf

distclean: clean
	rm -rf $(VENV)
