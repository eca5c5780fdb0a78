#!/usr/bin/env bash
# Run every study of conf/ablation, then the report: make ablations. Stop it at any time; the same command resumes.
# Failed studies are listed at the end; the others run anyway.
#   SIZE=mini  SEEDS=0  DATA=procedural  STEPS=<steps of a training>  FRAMES=<scored frames of a clip>  AT_ONCE=<points at a
#   time>  RUNS=runs.  SIZE=mini defaults to 40 steps, 6 frames (three windows of DSFN) and two points at a time:
#   more than an hour on two cores
#   RETRY=true: try failed points again; MORE=<other options>; STUDIES=<names>
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
runs=${RUNS:-runs}
seeds=${SEEDS:-0}
read -ra more <<<"${MORE:-}"
if [ "${SIZE:-mini}" = mini ]; then STEPS=${STEPS:-40} FRAMES=${FRAMES:-6} AT_ONCE=${AT_ONCE:-2} decay=0.9; fi  # an average over 40 steps
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
