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

trained() { # the weights of an experiment with these very options, of the first seed, where a study before has trained it
    local name
    name=$(printf '%s\n' "${options[@]}" | grep -v '^logger' | LC_ALL=C sort -t= -k1,1 | paste -sd,)
    ls "$runs/$1/$name/seed=${seeds%%,*}/checkpoints/last.ckpt" 2>/dev/null
}

failed=() without=()
for study in ${STUDIES:-$(basename -s .yaml -a conf/ablation/*.yaml)}; do
    needed=$(sed -n 's/^#.* checkpoint=<last.ckpt of \([a-z0-9_]*\)>.*/\1/p' "conf/ablation/$study.yaml")
    given=()
    if [ -n "$needed" ]; then
        checkpoint=$(trained "$needed") || { without+=("$study (checkpoint=<last.ckpt of $needed>)"); continue; }
        given=("checkpoint=$checkpoint")
    fi
    printf '\n=== %s\n' "$study"
    "$python" -m src.run "ablation=$study" "${options[@]}" "${sweep[@]}" ${given[@]+"${given[@]}"}
    code=$?
    [ $code -eq 130 ] && exit 130
    [ $code -eq 0 ] || failed+=("$study")
done
printf '\nTables:\n'
find "$runs/ablations" -name table.md | sort
"$python" -m src.run task=report "paths.runs=$runs" || echo "There is no report."
[ ${#without[@]} -eq 0 ] || printf 'Left out, for want of: %s\n' "${without[@]}"
[ ${#failed[@]} -eq 0 ] || { printf 'Failed: %s\n' "${failed[*]}"; exit 1; }
