#!/usr/bin/env bash
# Measurements and trainings that need a CUDA device, each part in under ten minutes: make accelerator PART=...
#   PART=zsm (default)   checks, and a longer training of Zooming SlowMo
#   PART=speed           checks, and the speed of every network with our and torchvision's operator, as a table and a plot
#   PART=edvr            EDVR's Table 4: four models at the paper's size
#   PART=deblur          deblurring with EDVR beside the blurred input, which needs more steps than a CPU allows
#   PART=wdvr            WDVR's Tables 1, 2 and 4, Figures 5 and 6 and the time of its self-ensemble, at the paper's size
#   PART=dsfn            DSFN with one level and with two, at the paper's size
#   PART=vtsr            VTSR's Tables 4.2 to 4.4 at the thesis's size, without ImageNet weights
#   experiments/accelerator.sh OUT [FOLDER OF VIDEOS]
# OUT receives checks.txt, and a folder for each training or study: log, results, metrics.csv, last.ckpt, tables, plots.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=$(mkdir -p "$1" && cd "$1" && pwd)
videos=${2:-}
part=${PART:-zsm}
export PYTHONUNBUFFERED=1
common=(trainer.max_steps="${STEPS:-4000}" trainer.precision=bf16-mixed trainer.val_check_interval=2000 logger=csv
    data.workers="$(nproc)")

"$python" -m src.run task=prepare data=procedural
data=(data=procedural)
[ -z "$videos" ] || data=(data=folder data.root="$videos" protocol=rgb)

run() { # name, seconds of each training, arguments
    local name=$1 seconds=$2; shift 2
    mkdir -p "$out/$name"
    "$python" -m src.run "$@" "${common[@]}" paths.runs="$out/$name" \
        +trainer.max_time="$(printf '00:00:%02d:%02d' $((seconds / 60)) $((seconds % 60)))" 2>&1 | tee "$out/$name/log"
}

case $part in
zsm) # a quarter of the width, as on a CPU, with more and larger batches
    "$python" -m pytest -m accelerator -p no:cacheprovider 2>&1 | tee "$out/checks.txt"
    zsm=(experiment=zsm_vimeo size=mini data.batch_size=16 data.crop=128 data.patches_per_read=16 size.rate=4e-4
        size.warmup=100 callbacks.average.decay=0.999)
    run zsm_procedural "${SECONDS_EACH:-200}" "${zsm[@]}" data=procedural
    [ -z "$videos" ] || run zsm_folder "${SECONDS_EACH:-200}" "${zsm[@]}" "${data[@]}" data.test_frames=4
    ;;
speed)
    "$python" -m pytest -m accelerator -p no:cacheprovider 2>&1 | tee "$out/checks.txt"
    "$python" -m src.run experiment=speed_gpu hydra.run.dir="$out/speed" 2>&1 | tee "$out/speed.txt"
    ;;
edvr)
    run edvr "${SECONDS_EACH:-110}" ablation=edvr_alignment_fusion "${data[@]}" data.test_frames=8 data.crop=128 \
        data.batch_size=16 data.patches_per_read=16
    ;;
deblur)
    blur=("${data[@]}" data.test_frames=4 degradation.exposure=3)
    run deblur "${SECONDS_EACH:-420}" experiment=edvr_reds_deblur_clean size.width=0.5 size.depth=0.25 size.warm_start=true "${blur[@]}" \
        data.crop=256 data.batch_size=16 data.patches_per_read=16
    run nothing 60 task=evaluate model=bicubic model.network.scale=1 degradation=blur "${blur[@]}"
    ;;
wdvr)
    wdvr=("${data[@]}" data.test_frames=20 data.patches_per_read=16)
    run wdvr "${SECONDS_EACH:-40}" ablation=wdvr_window_size "${wdvr[@]}"
    run wdvr "${SECONDS_EACH:-60}" ablation=wdvr_block_design "${wdvr[@]}"
    run wdvr "${SECONDS_EACH:-60}" ablation=wdvr_2d_3d "${wdvr[@]}"
    run wdvr 60 ablation=wdvr_padding "${wdvr[@]}" \
        checkpoint="$(find "$out/wdvr/wdvr3d_reds" -path '*trunk=tsas*' -name last.ckpt | head -n 1)"
    run wdvr 60 ablation=wdvr_frames_per_pass
    run wdvr 60 ablation=wdvr_ensemble_time
    ;;
dsfn)
    run dsfn "${SECONDS_EACH:-220}" ablation=dsfn_levels "${data[@]}" protocol=adobe240 data.test_frames=8 data.crop=256 \
        data.batch_size=16 data.patches_per_read=16 $([ -z "$videos" ] && echo data.layout.step=1 \
        || echo degradation.exposure=3 degradation.every=2)
    ;;
vtsr)
    vtsr=("${data[@]}" protocol=vtsr data.test_frames=3 data.crop=224 data.batch_size=8 data.patches_per_read=8
        model.imagenet=false $([ -z "$videos" ] && echo data.layout.step=1 || echo data.layout.hold_back=0.6))
    run vtsr "${SECONDS_EACH:-90}" ablation=vtsr_schemes_gopro "${vtsr[@]}"
    run vtsr "${SECONDS_EACH:-120}" ablation=vtsr_recursion "${vtsr[@]}" protocol.factor=16
    run times 60 experiment=vtsr_training_time
    ;;
esac
find "$out" -name best.ckpt -delete -o -name good.ckpt -delete # keep OUT small
