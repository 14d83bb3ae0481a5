#!/usr/bin/env bash
# Builds, tests and times the CUDA part of the native library on a machine with an NVIDIA GPU, from a bare checkout and
# without a network. Takes at most eight minutes; writes a log, what each group of tests said, and the figures.
#
#     bash scripts/gpu_check.sh            # PYTHON=/path/to/python RESULTS=folder to choose others (benchmarks/results)
#     bash scripts/gpu_check.sh --dry      # without a GPU: the same steps with nvcc, emulated kernels and CPU figures
#
# Needs nvcc, a C++ compiler, and a Python (3.11 to 3.13) with a CUDA build of torch, numpy and setuptools. pytest and
# jaxtyping are used where they are installed. Each file of tests and each family of benchmarks is a process of its own: a
# kernel that crashes takes the device away from its own process alone. Exits with 0 only when everything that could be run
# passed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python3}
RESULTS=${RESULTS:-benchmarks/results}
DRY=0
[ "${1:-}" = --dry ] && DRY=1
mkdir -p "$RESULTS" || exit 2
RESULTS=$(cd "$RESULTS" && pwd)
WORK=$(mktemp -d) || exit 2
trap 'rm -rf "$WORK"' EXIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
LOG=$RESULTS/gpu_check.log
LAST=460 # seconds after which nothing may run any more
SLOW=1   # times that steps may take, in a dry run on a small and busy machine
[ $DRY -eq 1 ] && LAST=7200 SLOW=20
status=0

say() { echo "== $* ($SECONDS s)" | tee -a "$LOG"; }

# step NAME SECONDS COMMAND...: runs it within a time limit and within what is left of all the time, remembers a failure,
# shows the end of what it said.
step() {
  local name=$1 limit=$2 code left=$((LAST - SECONDS))
  shift 2
  [ $left -lt 5 ] && { say "$name: no time left"; status=1; return 1; }
  say "$name"
  limit=$((limit * SLOW))
  timeout -k 10 $((limit < left ? limit : left)) "$@" >"$WORK/out" 2>&1
  code=$?
  cat "$WORK/out" >>"$LOG"
  tail -n 40 "$WORK/out"
  [ $code -eq 124 ] && echo "   $name: stopped for want of time" | tee -a "$LOG"
  [ $code -ne 0 ] && { echo "   $name: FAILED with exit code $code" | tee -a "$LOG"; status=1; }
  return $code
}

: >"$LOG"
if ! DRY=$DRY "$PYTHON" - <<'PY' 2>&1 | tee -a "$LOG"
import os, sys
try:
    import numpy, setuptools, torch
except ImportError as error:
    sys.exit(f"{sys.executable}: {error}. This check needs numpy, setuptools and a CUDA build of torch.")
if os.environ["DRY"] == "1":
    print(f"dry run, torch {torch.__version__}, Python {sys.version.split()[0]}")
elif not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} sees no NVIDIA GPU; nothing can be checked here (--dry does what it can).")
else:
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

if [ $DRY -eq 1 ]; then
  arch=${HEADRECON_CUDA_ARCHS:-90} device=dry
  bench=(--device cpu --small --no-peers) marked="native and not cuda" chosen="emulated" jobs=1 # the first compiles
else
  arch=${HEADRECON_CUDA_ARCHS:-$("$PYTHON" -c "import torch; print('%d%d' % torch.cuda.get_device_capability())")}
  device=$("$PYTHON" -c "import re, torch; print(re.sub(r'[^a-z0-9]+', '-', torch.cuda.get_device_name(0).lower()).strip('-'))")
  bench=(--device cuda) marked=cuda chosen="" jobs=4
fi

step "building both libraries for sm_$arch" 170 env HEADRECON_REQUIRE_NATIVE=1 HEADRECON_CUDA=1 HEADRECON_CUDA_ARCHS="$arch" \
  "$PYTHON" setup.py -q build_ext --inplace --force || exit 1
"$PYTHON" -c "from headrecon.ops import _native; print(_native.describe())" 2>&1 | tee -a "$LOG"

# Every file of tests with kernels in it; on a GPU four at a time.
if "$PYTHON" -c "import pytest" 2>/dev/null; then
  cat >"$WORK/tests.sh" <<'SH'
name=$(basename "$3" .py)
# The project's own options ask for packages that may be absent; these do without. Another torch may deprecate something.
timeout -k 10 "$4" "$1" -m pytest "$3" -m "$5" -k "$6" -q --maxfail=40 -p no:cacheprovider -W default::DeprecationWarning \
  -o addopts="-ra --import-mode=importlib" >"$2/$name.out" 2>&1
echo $? >"$2/$name.code"
SH
  files=$(grep -lE "pytest\.mark\.cuda|: CudaKernels" tests/ops/test_*.py)
  [ -n "$chosen" ] || files="$files tests/avatars/gaussian/test_on_gpu.py" # of what is emulated there is none
  step "tests ($(echo "$files" | wc -w) files)" 170 \
    xargs -P $jobs -I FILE bash "$WORK/tests.sh" "$PYTHON" "$WORK" FILE $((160 * SLOW)) "$marked" "$chosen" \
    <<<"$(printf '%s\n' $files)"
  for file in $files; do
    name=$(basename "$file" .py) code=killed
    [ -f "$WORK/$name.code" ] && code=$(cat "$WORK/$name.code")
    [ -f "$WORK/$name.out" ] && cat "$WORK/$name.out" >>"$LOG"
    grep -hE "^(FAILED|ERROR) " "$WORK/$name.out" 2>/dev/null | cut -c1-200 | head -n 12
    echo "   $name: exit code $code; $(tail -n 1 "$WORK/$name.out" 2>/dev/null)" | tee -a "$LOG"
    [ "$code" = 0 ] || status=1
  done
else
  say "pytest is not installed: the comparison below stands in for the tests"
fi

# The figures of a family are written row by row as they are found, and gathered after each family.
for family in splat volume field ssim isosurface mesh; do
  step "figures: $family" 60 "$PYTHON" -m headrecon.cli bench --family $family "${bench[@]}" --seconds 0.3 \
    --json "$WORK/figures-$family.json"
  "$PYTHON" - "$RESULTS/$device.json" "$WORK" <<'PY' 2>&1 | tee -a "$LOG"
import json, pathlib, sys
whole = {"machine": {}, "rows": {}}
for file in sorted(pathlib.Path(sys.argv[2]).glob("figures-*.json")):
    part = json.loads(file.read_text(encoding="utf-8"))
    whole = {"machine": part["machine"], "rows": {**whole["rows"], **part["rows"]}}
pathlib.Path(sys.argv[1]).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
PY
done

if command -v compute-sanitizer >/dev/null && [ $DRY -eq 0 ]; then
  for family in splat volume field ssim isosurface mesh; do
    [ $SECONDS -lt $((LAST - 60)) ] || { say "memory accesses of $family and what follows: no time left"; break; }
    step "memory accesses: $family" 60 compute-sanitizer --tool memcheck --error-exitcode 9 \
      "$PYTHON" -m headrecon.cli bench --family $family --device cuda --check --small
  done
fi
say "$([ $status -eq 0 ] && echo passed || echo FAILED); log and figures in $RESULTS (gpu_check.log, $device.json)"
exit $status
