#!/usr/bin/env bash
# All that a machine with a CUDA device is wanted for, in one call of under ten minutes: make accelerator.
#   experiments/accelerator.sh OUT [FOLDER OF VIDEOS]
# OUT receives checks.txt, and a folder for each training: log, results.json, metrics.csv, last.ckpt.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=$(mkdir -p "$1" && cd "$1" && pwd)
videos=${2:-}
export PYTHONUNBUFFERED=1

"$python" -m pytest -m accelerator -p no:cacheprovider 2>&1 | tee "$out/checks.txt"

# Zooming SlowMo at a quarter of its width, as on the CPU, but for MINUTES (4) of many more and larger batches.
train() { # name, data set
    local name=$1; shift
    mkdir -p "$out/$name"
    "$python" -m src.run experiment=zsm_vimeo size=mini paths.runs="$out/$name/runs" "$@" \
        trainer.max_steps="${STEPS:-4000}" trainer.precision=bf16-mixed +trainer.max_time="00:00:${MINUTES:-4}:00" \
        trainer.val_check_interval=2000 data.batch_size=16 data.crop=128 data.patches_per_read=16 \
        data.workers="$(nproc)" size.rate=4e-4 size.warmup=100 callbacks.average.decay=0.999 logger=csv 2>&1 |
        tee "$out/$name/log"
    local run
    run=$(dirname "$(find "$out/$name/runs" -name config.yaml | head -n 1)")
    cp "$run/results.json" "$run/metrics.csv" "$run/config.yaml" "$run/checkpoints/last.ckpt" "$out/$name/"
}
"$python" -m src.run task=prepare data=procedural
train procedural data=procedural
[ -z "$videos" ] || train folder data=folder data.root="$videos" data.test_frames=4 protocol=rgb
