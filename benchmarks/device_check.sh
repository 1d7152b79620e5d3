#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA GPU can tell, in parts that take less than ten minutes each.
#
#   benchmarks/device_check.sh build-and-test   build for this GPU, the tests that need CUDA
#   benchmarks/device_check.sh sanitize         compute-sanitizer over small calls of every operator
#   benchmarks/device_check.sh head             the loss against its peers
#   benchmarks/device_check.sh step             masking, training steps, growth
#   benchmarks/device_check.sh all              one after the other
#
# What follows the part goes to benchmarks/run_all.py: --overwrite replaces reports of an earlier run, --quick tries
# everything at tiny sizes. The machine needs Python, torch with CUDA, nvcc, cmake, ninja, pybind11, setuptools,
# transformers, accelerate, pytest, hypothesis. Nothing is downloaded: other packages (datasets, matplotlib,
# liger-kernel, cut-cross-entropy) are taken as wheels from $WHEELS, ./wheels or ../wheels. The build stays in
# build/device and is made anew when sources change. Reports go to benchmarks/results/<device>; with $OUT set, one
# tar of them, one log, one page and one plot are put there. $SPANBERT_EXT_COMMIT names the commit of a copied tree,
# which has no .git of its own.
set -uo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
work=$repository/build/device
site=$work/site
wheel_site=$work/wheels
part_seconds=570
part=${1:-}
shift || true
run_all_options=("$@")

stop() {
    echo "device_check.sh: $*" >&2
    exit 1
}

case $part in
    build-and-test | sanitize | head | step | all) ;;
    -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
        exit
        ;;
    *) stop "expected build-and-test, sanitize, head, step or all, not '$part'" ;;
esac
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
    stop "no GPU: $python finds no torch whose torch.cuda.is_available() is True; nothing was done"

failures=()
say() { echo "[$(date +%T)] $*"; }
fail() {
    say "FAILED: $*"
    failures+=("$*")
}
begin_part() {
    say "---- $1 ----"
    deadline=$((SECONDS + part_seconds))
}
left() { echo $((deadline - SECONDS)); }
# limited SECONDS COMMAND...: stopped after that long, and when the part's time is over
limited() {
    local limit=$1
    shift
    ((limit > $(left))) && limit=$(left)
    if ((limit < 5)); then
        say "no time left for: $*"
        return 124
    fi
    timeout --kill-after=10 "$limit" "$@"
}

# ---- what every part needs ----

python_has() { "$python" -c "import importlib.metadata as m, sys; m.version(sys.argv[1])" "$1" 2>/dev/null; }

install_wheels() {
    local folder wheel name
    for folder in "${WHEELS:-}" "$repository/wheels" "$repository/../wheels"; do
        [[ -n $folder && -d $folder ]] || continue
        for wheel in "$folder"/*.whl; do
            name=$(basename "$wheel")
            name=${name%%-*}
            python_has "$name" && continue
            "$python" -m pip install --quiet --no-index --no-deps --target "$wheel_site" "$wheel" 2>&1 |
                sed "s/^/$name: /"
            ((PIPESTATUS[0] == 0)) && say "installed $(basename "$wheel")"
        done
        return
    done
    say "no folder of wheels: what is not installed here is left out"
}

source_stamp() {
    (
        cd "$repository" || exit
        "$python" -c 'import sys, torch; print(sys.version, torch.__version__)'
        echo "$TORCH_CUDA_ARCH_LIST"
        find csrc cmake tools spanbert_ext CMakeLists.txt setup.py pyproject.toml -type f \
            ! -name '*.pyc' ! -name '*.so' ! -name _build_config.py -print0 | sort -z | xargs -0 sha256sum
    ) | sha256sum
}

build() {
    local stamp
    TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$python" -c \
        'import torch; print("%d.%d" % torch.cuda.get_device_capability())')}
    export TORCH_CUDA_ARCH_LIST
    export PYTHONPATH=$site:$wheel_site
    install_wheels
    stamp=$(source_stamp)
    if [[ -f $work/stamp && $(<"$work/stamp") == "$stamp" ]]; then
        say "the build in $site is up to date"
        return
    fi
    rm -rf "$site" "$work/stamp"
    say "building for architecture $TORCH_CUDA_ARCH_LIST"
    # PYTHONPATH would offer the build what it is about to replace
    if ! (cd "$repository" && PYTHONPATH=$wheel_site SPANBERT_EXT_CUDA=ON limited 400 "$python" -m pip install \
        --no-build-isolation --no-deps --target "$site" .); then
        fail "the build"
        return 1
    fi
    (cd "$work" && "$python" -m spanbert_ext) || return 1
    echo "$stamp" >"$work/stamp"
}

# ---- parts ----

tests() {
    local files=() file
    while IFS= read -r file; do
        if ! python_has datasets && grep -qE '^(import|from) (datasets|spanbert_ext\.pretrain)' "$file"; then
            say "left out, datasets is not installed: $file"
        else
            files+=("$file")
        fi
    done < <(grep -lE 'mark\.needs_cuda' "$repository"/tests/test_*.py)
    if ((${#files[@]} == 0)); then
        fail "no test is marked needs_cuda"
        return
    fi
    # from a folder without sources, so that what was installed is what is tested
    (cd "$work" && PYTHONSAFEPATH=1 SPANBERT_EXT_REQUIRE_CUDA=1 limited 600 "$python" -m pytest \
        -c "$repository/pyproject.toml" --rootdir "$repository" -p no:cacheprovider -m needs_cuda "${files[@]}") ||
        fail "CUDA tests"
}

sanitize() {
    local sanitizer tool
    sanitizer=$(command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null)
    if [[ -z $sanitizer ]]; then
        fail "compute-sanitizer is neither on the PATH nor in ${CUDA_HOME:-/usr/local/cuda}/bin"
        return
    fi
    limited 120 "$python" "$repository/benchmarks/sanitizer_set.py" || fail "the small set without a sanitizer"
    for tool in memcheck racecheck initcheck synccheck; do
        say "$tool"
        # without torch's memory pool every tensor is an allocation whose bounds the tool knows
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 limited 140 "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 20 \
            "$python" "$repository/benchmarks/sanitizer_set.py" || fail "$tool"
    done
}

benchmark() {
    limited 600 "$python" "$repository/benchmarks/run_all.py" --device cuda --parts "$1" \
        --budget "$(($(left) - 20))" --log "$log" ${run_all_options[@]+"${run_all_options[@]}"} || fail "benchmarks: $1"
}

run_part() {
    begin_part "$1"
    build || return
    case $1 in
        build-and-test) tests ;;
        sanitize) sanitize ;;
        head) benchmark head ;;
        step) benchmark masking,step,growth ;;
    esac
}

run() {
    local one parts=("$part")
    [[ $part == all ]] && parts=(build-and-test sanitize head step)
    say "$part on $device, commit ${SPANBERT_EXT_COMMIT:-$(git -C "$repository" describe --always --dirty 2>/dev/null)}"
    for one in "${parts[@]}"; do
        run_part "$one"
    done
    if ((${#failures[@]})); then
        say "$part: ${#failures[@]} failed: $(printf '%s; ' "${failures[@]}")"
        return 1
    fi
    say "$part: all passed in $SECONDS s"
}

hand_over() { # at most four files
    local plot
    mkdir -p "$OUT"
    cp "$log" "$OUT/device_check-$part.log"
    [[ -d $results ]] || return
    tar -C "$(dirname "$results")" -czf "$OUT/results-$part.tar.gz" "$(basename "$results")"
    [[ -f $results/README.md ]] && cp "$results/README.md" "$OUT/README.md"
    for plot in "$results"/bench_sbo-base-32x512-bfloat16.png "$results"/*.png; do
        [[ -f $plot ]] && cp "$plot" "$OUT/" && break
    done
}

mkdir -p "$work"
device=$(cd "$repository/benchmarks" && "$python" -c \
    'import torch; from common import device_name, machine; print(device_name(machine(torch.device("cuda"))))')
results=$repository/benchmarks/results/$device
[[ " $* " == *" --quick "* ]] && results=$repository/build/benchmarks-quick/$device
log=$work/$part.log
rm -f "$log"
run 2>&1 | tee -a "$log" # run_all.py appends to it too
status=${PIPESTATUS[0]}
[[ -n ${OUT:-} ]] && hand_over
exit "$status"
