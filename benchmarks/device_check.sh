#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that only a machine with an NVIDIA GPU can show, in parts that take less than ten minutes each.
#
#   benchmarks/device_check.sh build-and-test   build for this GPU, the tests that need CUDA
#   benchmarks/device_check.sh sanitize         compute-sanitizer over small calls of every operator
#   benchmarks/device_check.sh head             the loss against its peers
#   benchmarks/device_check.sh step             masking, training steps, growth
#   benchmarks/device_check.sh all              one after the other
#
# Where the GPU is lent for minutes:
#
#   benchmarks/device_check.sh tune     60 s of CUDA tests of the heads, then 240 s of tune_cuda.py; run-a is the same
#   benchmarks/device_check.sh run-b    those tests, the loss at three sizes and two vocabularies, steps eager and compiled,
#                                       and the loss of an older commit where `make device-site BASELINE=COMMIT` built it
#
# And without a GPU:
#
#   benchmarks/device_check.sh site     the build alone, for $TORCH_CUDA_ARCH_LIST, or that of the commit $BASELINE:
#                                       `make device-site` calls this
#   benchmarks/device_check.sh stamp    what a build depends on, as one line
#
# What follows the part goes to benchmarks/run_all.py, or for tune and run-a to benchmarks/tune_cuda.py: --overwrite
# replaces reports of an earlier run, --quick tries everything at tiny sizes. The machine needs Python, torch with CUDA,
# transformers, accelerate, pytest, hypothesis, and unless build/device holds a build that fits (made there, or brought
# along from `make device-site`): nvcc, cmake, ninja, pybind11, setuptools. Nothing is downloaded: other packages
# (datasets, matplotlib, liger-kernel, cut-cross-entropy) are taken as wheels from $WHEELS, ./wheels or ../wheels. The
# build is made anew when sources, architecture, torch or Python's minor version change. Reports go to
# benchmarks/results/<device>, those of tune, run-a and run-b to build/device/<part>; with $OUT set, one tar of them, one
# log, and a page and a plot or the tables are put there. $SPANBERT_EXT_COMMIT names the commit of a copied tree, which
# has no .git of its own.
set -uo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
work=$repository/build/device
site=$work/site
baseline=$work/site-baseline
wheel_site=$work/wheels
part_seconds=570
compile_seconds=400
part=${1:-}
shift || true
part_options=("$@")

stop() {
    echo "device_check.sh: $*" >&2
    exit 1
}

case $part in
    build-and-test | sanitize | head | step | all | tune | run-a | run-b | site | stamp) ;;
    -h | --help)
        sed -n '3,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
        exit
        ;;
    *) stop "expected build-and-test, sanitize, head, step, all, tune, run-a, run-b, site or stamp, not '$part'" ;;
esac
if [[ $part == site || $part == stamp ]]; then
    [[ -n ${TORCH_CUDA_ARCH_LIST:-} ]] ||
        stop "$part needs TORCH_CUDA_ARCH_LIST, the architecture of the machine with the GPU: 9.0 for an H100 or H200"
else
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
        stop "no GPU: $python finds no torch whose torch.cuda.is_available() is True; nothing was done"
fi

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
        "$python" -c 'import sys, torch; print(sys.version_info[:2], torch.__version__)' 2>/dev/null
        echo "$TORCH_CUDA_ARCH_LIST"
        find csrc cmake tools spanbert_ext CMakeLists.txt setup.py pyproject.toml -type f \
            ! -name '*.pyc' ! -name '*.so' ! -name _build_config.py -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    ) | sha256sum | cut -d ' ' -f 1
}

# compile SOURCE SITE: installs the package in SOURCE and what it is built with into SITE
compile() {
    # PYTHONPATH would offer the build what it is about to replace
    (cd "$1" && PYTHONPATH=$wheel_site SPANBERT_EXT_CUDA=ON SPANBERT_EXT_TUNING=ON limited $compile_seconds "$python" -m pip install \
        --no-build-isolation --no-deps --upgrade --target "$2" .)
}

# The extension is imported and says what it is; PYTHONPATH names the site.
import_check() { (cd "$work" && limited 60 "$python" -m spanbert_ext); }

build() {
    local stamp built=() # the stamp, and where it was compiled
    TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$python" -c \
        'import torch; print("%d.%d" % torch.cuda.get_device_capability())')}
    export TORCH_CUDA_ARCH_LIST
    export PYTHONPATH=$site:$wheel_site
    [[ $part == site ]] || install_wheels
    stamp=$(source_stamp)
    [[ -f $work/stamp ]] && mapfile -t built <"$work/stamp"
    if [[ ${built[0]:-} == "$stamp" ]]; then
        if ! import_check; then
            fail "the build in $site does not load"
            return 1
        fi
        say "the build in $site is up to date: it was compiled ${built[1]:-here}, nothing is compiled now"
        return
    fi
    [[ -n ${built[0]:-} ]] && say "the build in $site is of other sources, another torch, Python or architecture"
    rm -rf "$site" "$work/stamp"
    say "building for architecture $TORCH_CUDA_ARCH_LIST"
    if ! compile "$repository" "$site"; then
        fail "the build"
        return 1
    fi
    import_check || return 1
    printf '%s\n' "$stamp" "$([[ $part == site ]] && echo "beforehand, without a GPU" || echo here)" >"$work/stamp"
}

# The package as it was at the commit $BASELINE, compiled beside the present one; its stamp is the commit.
build_baseline() {
    local sources=$repository/build/baseline
    rm -rf "$sources" "$baseline"
    mkdir -p "$sources"
    export PYTHONPATH=$baseline
    if git -C "$repository" archive "$BASELINE" | tar -x -C "$sources" && compile "$sources" "$baseline"; then
        import_check && git -C "$repository" rev-parse "$BASELINE" >"$work/stamp-baseline"
    else
        fail "the build of $BASELINE"
        return 1
    fi
}

# ---- parts ----

# run_tests SECONDS FILE...: those of their tests that need CUDA
run_tests() {
    local limit=$1
    shift
    # from a folder without sources, so that what was installed is what is tested
    (cd "$work" && PYTHONSAFEPATH=1 SPANBERT_EXT_REQUIRE_CUDA=1 limited "$limit" "$python" -m pytest \
        -c "$repository/pyproject.toml" --rootdir "$repository" -p no:cacheprovider -m needs_cuda "$@") ||
        fail "CUDA tests"
}

# cuda_tests FILE...: those with tests that need CUDA; `on_cuda_code` is a mark of tests/cuda_code.py
cuda_tests() { grep -lE 'mark\.needs_cuda|^@on_cuda_code' "$@" 2>/dev/null; }

tests() {
    local files=() file
    while IFS= read -r file; do
        if ! python_has datasets && grep -qE '^(import|from) (datasets|spanbert_ext\.pretrain)' "$file"; then
            say "left out, datasets is not installed: $file"
        else
            files+=("$file")
        fi
    done < <(cuda_tests "$repository"/tests/*/test_*.py)
    if ((${#files[@]} == 0)); then
        fail "no test is marked needs_cuda"
        return
    fi
    run_tests 600 "${files[@]}"
}

head_tests() { # a minute's worth of them
    local files
    mapfile -t files < <(cuda_tests "$repository"/tests/ops/test_{vocab_ce,boundary_mlp}*.py)
    if ((${#files[@]} == 0)); then
        fail "no test of vocab_ce or boundary_mlp is marked needs_cuda"
        return
    fi
    run_tests 60 --quiet --maxfail 3 "${files[@]}"
}

# small_set SECONDS [TOOL...] PYTHON: from the folder where its imports are found
small_set() { (cd "$repository/benchmarks" && limited "$@" -m support.sanitizer_set); }

sanitize() {
    local sanitizer tool
    sanitizer=$(command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null)
    if [[ -z $sanitizer ]]; then
        fail "compute-sanitizer is neither on the PATH nor in ${CUDA_HOME:-/usr/local/cuda}/bin"
        return
    fi
    small_set 120 "$python" || fail "the small set without a sanitizer"
    for tool in memcheck racecheck initcheck synccheck; do
        say "$tool"
        # without torch's memory pool every tensor is an allocation whose bounds the tool checks
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 small_set 140 "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 20 \
            "$python" || fail "$tool"
    done
}

benchmark() {
    limited 600 "$python" "$repository/benchmarks/run_all.py" --device cuda --parts "$1" \
        --budget "$(($(left) - 20))" --log "$log" ${part_options[@]+"${part_options[@]}"} || fail "benchmarks: $1"
}

tune() {
    limited 255 "$python" "$repository/benchmarks/tune_cuda.py" --limit 240 --output "$reports/tune_cuda.json" \
        ${part_options[@]+"${part_options[@]}"} | tee "$reports/tune_cuda.txt"
    ((PIPESTATUS[0] == 0)) || fail "tune_cuda.py"
}

# table NAME SECONDS SCRIPT OPTION...: one benchmark on the GPU, its report and its table
table() {
    local name=$1 limit=$2 script=$3
    shift 3
    say "$name"
    limited "$limit" "$python" "$repository/benchmarks/$script" --device cuda --dtype bfloat16 "$@" \
        --json "$reports/$name.json" >"$reports/$name.txt" || fail "$name"
    cat "$reports/$name.txt"
}

head_table() { # NAME SHAPE OPTION...
    table "$1" 60 bench_sbo.py --seconds 8 --shape "$2" "${@:3}"
}

compare() {
    local heads=(--providers "fused,eager_masked,compile") steps=(--shape base-32x512 --seconds 15)
    head_table base-32x512 base-32x512 "${heads[@]}"
    head_table base-256x512 base-256x512 "${heads[@]}"
    if [[ -d $baseline/spanbert_ext ]]; then
        PYTHONPATH=$baseline:$wheel_site head_table baseline-base-32x512 base-32x512 --providers fused
        PYTHONPATH=$baseline:$wheel_site head_table baseline-base-256x512 base-256x512 --providers fused
    fi
    steps+=(--providers "spanbert,stock_mlm,masked_only,stock_mlm_as_shipped")
    table step-eager 60 bench_step.py "${steps[@]}" --modes eager
    table step-compiled 100 bench_step.py "${steps[@]}" --modes layers,model --compile-seconds 45
    head_table large-32x512 large-32x512 "${heads[@]}"
    head_table base-32x512-29056 base-32x512 "${heads[@]}" --vocab 29056
    head_table base-256x512-29056 base-256x512 "${heads[@]}" --vocab 29056
}

run_part() {
    begin_part "$1"
    build || return
    case $1 in
        site) ;;
        tune | run-a)
            head_tests
            tune
            ;;
        run-b)
            head_tests
            compare
            ;;
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
    if [[ -n $reports ]]; then
        tar -C "$work" -czf "$OUT/$part.tar.gz" "$part"
        tail -n +1 "$reports"/*.txt >"$OUT/$part.txt"
        return
    fi
    [[ -d $results ]] || return
    tar -C "$(dirname "$results")" -czf "$OUT/results-$part.tar.gz" "$(basename "$results")"
    [[ -f $results/README.md ]] && cp "$results/README.md" "$OUT/README.md"
    for plot in "$results"/bench_sbo-base-32x512-bfloat16.png "$results"/*.png; do
        [[ -f $plot ]] && cp "$plot" "$OUT/" && break
    done
}

if [[ $part == stamp ]]; then
    source_stamp
    exit
fi
mkdir -p "$work"
reports='' # a folder of the parts whose figures are not published
case $part in
    site)
        part_seconds=7200
        compile_seconds=7200
        begin_part site
        if [[ -n ${BASELINE:-} ]]; then build_baseline; else build; fi
        exit
        ;;
    tune | run-a | run-b)
        reports=$work/$part
        rm -rf "$reports"
        mkdir -p "$reports"
        ;;
esac
device=$(cd "$repository/benchmarks" && "$python" -c \
    'import torch; from support.machine import device_name, machine; print(device_name(machine(torch.device("cuda"))))')
results=$repository/benchmarks/results/$device
[[ " $* " == *" --quick "* ]] && results=$repository/build/benchmarks-quick/$device
log=$work/$part.log
rm -f "$log"
run 2>&1 | tee -a "$log" # run_all.py appends to it too
status=${PIPESTATUS[0]}
[[ -n ${OUT:-} ]] && hand_over
exit "$status"
