#!/usr/bin/env bash
# Every study of conf/ablation, one after another, and the report on them: make ablations. Stop it at any time; called
# again it goes on with what is missing. A study that fails is named at the end, and the others run all the same.
#   SIZE=mini  SEEDS=0  DATA=procedural  STEPS= of each training  FRAMES= of each clip that is scored  AT_ONCE= points at
#   a time  RUNS=runs.  With SIZE=mini 40 steps and 4 frames, two points at a time: about an hour on two cores
#   RETRY=true tries points again that failed before; MORE= any other options; STUDIES= the names of some
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
runs=${RUNS:-runs}
seeds=${SEEDS:-0}
read -ra more <<<"${MORE:-}"
if [ "${SIZE:-mini}" = mini ]; then STEPS=${STEPS:-40} FRAMES=${FRAMES:-4} AT_ONCE=${AT_ONCE:-2} decay=0.9; fi  # an average of 40 steps
options=("size=${SIZE:-mini}" "data=${DATA:-procedural}" ${decay:+"callbacks.average.decay=$decay"} ${STEPS:+"trainer.max_steps=$STEPS"}
    ${FRAMES:+"data.test_frames=$FRAMES"} ${more[@]+"${more[@]}"})
sweep=("seed=$seeds" "paths.runs=$runs" ${AT_ONCE:+"hydra.launcher.at_once=$AT_ONCE"} ${RETRY:+"hydra.launcher.retry=$RETRY"})

failed=()
for study in ${STUDIES:-$(basename -s .yaml -a conf/ablation/*.yaml)}; do
    printf '\n=== %s\n' "$study"
    "$python" -m src.run "ablation=$study" "${options[@]}" "${sweep[@]}"
    code=$?
    [ $code -eq 130 ] && exit 130
    [ $code -eq 0 ] || failed+=("$study")
done
printf '\nTables:\n'
find "$runs/ablations" -name table.md | sort
"$python" -m src.run task=report "paths.runs=$runs" || failed+=(report)
[ ${#failed[@]} -eq 0 ] || { printf 'Failed: %s\n' "${failed[*]}"; exit 1; }
