#!/usr/bin/env bash
# Builds, tests and times the CUDA part of the native library on a machine with an NVIDIA GPU, from a bare checkout and
# without a network. Takes at most eight minutes; writes a log and the figures to benchmarks/results/.
#
#     bash scripts/gpu_check.sh            # PYTHON=/path/to/python RESULTS=folder to choose others
#
# Needs nvcc, a C++ compiler, and a Python (3.11 to 3.13) with a CUDA build of torch, numpy and setuptools. pytest and
# jaxtyping are used where they are installed. Exits with 0 only when everything that could be run passed.
set -u
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python3}
RESULTS=${RESULTS:-benchmarks/results}
mkdir -p "$RESULTS" || exit 2
RESULTS=$(cd "$RESULTS" && pwd)
WORK=$(mktemp -d) || exit 2
trap 'rm -rf "$WORK"' EXIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
status=0

say() { echo "== $* ($SECONDS s)"; }

# step NAME SECONDS COMMAND...: runs it within a time limit, remembers a failure, shows the end of what it said.
step() {
  local name=$1 limit=$2 code
  shift 2
  say "$name"
  timeout -k 10 "$limit" "$@" >"$WORK/out" 2>&1
  code=$?
  cat "$WORK/out" >>"$RESULTS/gpu_check.log"
  tail -n 60 "$WORK/out"
  [ $code -eq 124 ] && echo "   $name: stopped after $limit s"
  [ $code -ne 0 ] && { echo "   $name: FAILED with exit code $code"; status=1; }
  return $code
}

: >"$RESULTS/gpu_check.log"
if ! "$PYTHON" - <<'PY'
import sys
try:
    import numpy, setuptools, torch
except ImportError as error:
    sys.exit(f"{sys.executable}: {error}. This check needs numpy, setuptools and a CUDA build of torch.")
if not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} sees no NVIDIA GPU; nothing can be checked here.")
print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, Python {sys.version.split()[0]}")
PY
then
  exit 2
fi

# jaxtyping only writes shapes into annotations, which nothing here evaluates: where it is absent, names suffice.
if ! "$PYTHON" -c "import jaxtyping" 2>/dev/null; then
  say "jaxtyping is not installed: a stand-in is used"
  cat >"$WORK/jaxtyping.py" <<'PY'
class _Shaped:
    def __class_getitem__(cls, item):
        return object


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Shaped
PY
  export PYTHONPATH="$PYTHONPATH:$WORK"
fi

arch=${HEADRECON_CUDA_ARCHS:-$("$PYTHON" -c "import torch; print('%d%d' % torch.cuda.get_device_capability())")}
step "building both libraries for sm_$arch" 150 env HEADRECON_REQUIRE_NATIVE=1 HEADRECON_CUDA=1 HEADRECON_CUDA_ARCHS="$arch" \
  "$PYTHON" setup.py -q build_ext --inplace --force || exit 1
"$PYTHON" -c "from headrecon.ops import _native; print(_native.describe())" | tee -a "$RESULTS/gpu_check.log"

device=$("$PYTHON" -c "import re, torch; print(re.sub(r'[^a-z0-9]+', '-', torch.cuda.get_device_name(0).lower()).strip('-'))")
if "$PYTHON" -c "import pytest" 2>/dev/null; then
  # The project's own options ask for packages that may be absent; these do without.
  step "tests on the GPU" 150 "$PYTHON" -m pytest tests/ops -m cuda -q --maxfail=20 \
    -p no:cacheprovider -o addopts="-ra --import-mode=importlib"
else
  say "pytest is not installed: the comparison below stands in for the tests"
fi
step "comparison and times" 110 "$PYTHON" -m headrecon.cli bench --device cuda --seconds 0.4 \
  --json "$RESULTS/$device.json"
if command -v compute-sanitizer >/dev/null && [ $SECONDS -lt 350 ]; then
  step "memory accesses" 100 compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$PYTHON" -m headrecon.cli bench --device cuda --check --small
fi
say "$([ $status -eq 0 ] && echo passed || echo FAILED); log and figures in $RESULTS (gpu_check.log, $device.json)"
exit $status
