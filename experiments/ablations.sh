#!/usr/bin/env bash
# Every study of conf/ablation, one after another, and the report on them: make ablations. Stop it at any time; called
# again it goes on with what is missing. A study that fails is named at the end, and the others run all the same.
#   SIZE=mini  SEEDS=0  DATA=procedural  STEPS= of each training  AT_ONCE= points at a time  RUNS=runs
#   RETRY=true tries points again that failed before; MORE= any other options; STUDIES= the names of some
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
runs=${RUNS:-runs}
seeds=${SEEDS:-0}
read -ra more <<<"${MORE:-}"
options=("size=${SIZE:-mini}" "data=${DATA:-procedural}" ${STEPS:+"trainer.max_steps=$STEPS"} ${more[@]+"${more[@]}"})
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
