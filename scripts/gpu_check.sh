#!/usr/bin/env bash
# On a machine with a GPU, in one command: everything that this repository says of GPUs without having measured it.
# About five hours at full length. Begun again with the same OUT, it goes on where it was. Needs the extra:
# pip install -e ".[test]".
#
#     scripts/gpu_check.sh TRAIN.npz TEST.npz [OUT]
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: scripts/gpu_check.sh TRAIN.npz TEST.npz [OUT]" >&2
    exit 2
fi
train=$(realpath "$1") test=$(realpath "$2") out=$(realpath -m "${3:-results/gpu}")
cd "$(dirname "$0")/.."
python - <<'PYTHON'
import sys, torch
sys.exit(None if torch.cuda.is_available() else "gpu_check: torch sees no CUDA GPU here")
PYTHON
mkdir -p "$out"
data=(--data "$train" --test "$test" --device cuda)

# a run of the main job, unless it is done
main_job() {
    local run="$out/$1"
    shift
    [ -e "$run/result.json" ] && return
    rm -rf "$run"
    attempt python -m speedtrain "${data[@]}" --out "$run" "$@"
}

attempt() { "$@" || echo "gpu_check: failed, measuring all the same: $*"; }

attempt pytest | tee "$out/tests.txt"
for budget in 15 60 600; do
    attempt python -m speedtrain plan --budget $budget "${data[@]}" | tee "$out/plan-$budget.txt"
done
if [ ! -e "$out/bench/bench.json" ]; then
    rm -rf "$out/bench"
    attempt python -m speedtrain bench --budgets 60,600 "${data[@]}" --out "$out/bench"
fi
# the planner's batches of 512 beside others, and its precision beside the other half one
resume=()
[ -e "$out/batches" ] && resume=(--resume)
attempt python -m speedtrain ablate --budget 60 --seeds 3 --tricks none --set width=64 --set max_epochs=null \
    --vary batch_size=512,128,1024 --vary precision=bf16,fp16 "${data[@]}" --out "$out/batches" "${resume[@]}"
resume=()
[ -e "$out/curve" ] && resume=(--resume)
attempt python -m speedtrain curve --budgets 15,60,600 --recipes auto,paper --seeds 3 "${data[@]}" --out "$out/curve" \
    "${resume[@]}"
# the networks that the planner takes in 60 s, several if there are cores for them, beside one
for seed in 0 1 2; do
    main_job planned-$seed --budget 60 --seed $seed
    main_job one-$seed --budget 60 --seed $seed --set or_members=null
done
# without the tricks of a long run; and the whole of 600 s, beside the curve's runs, which end earlier (max_epochs)
for seed in 0 1 2; do
    main_job plain-$seed --budget 60 --seed $seed --set in_long_runs=null
    main_job whole-$seed --budget 600 --seed $seed --set max_epochs=null
done
attempt python scripts/peers.py --budgets 60,600 --seeds 3 --data "$train" --test "$test" --out "$out/peers"
echo "all in $out"
