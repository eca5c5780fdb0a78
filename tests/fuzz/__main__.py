"""Fuzz the video reader: read damaged videos and images in processes that may crash.

    python -m tests.fuzz --count 2000 --seed 0 --findings findings --json fuzz.json
    python -m tests.fuzz --only 1234 --seed 0            # replay a case

Each file is read in one of the modes available to users, in order and at random. Valid outcomes are frames, or a
VideoError of one sentence that names the file, in bounded time and memory; any other is a failure. A worker process
reads many files; one that crashes, hangs or exceeds the memory limit is reported and replaced.

A mutation is a function of the seed files, ``--seed`` and its number. The seed files are synthetic, with fixed content,
plus those of a folder of real files if there is one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.fuzz.pool import FILES_PER_WORKER, run_cases, summarize
from tests.fuzz.reading import FAILURES, Case, Outcome, make_case
from tests.fuzz.seeds import REAL_FILES, list_seeds, make_seeds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Damage videos and images and read them.")
    parser.add_argument("--count", type=int, default=200, help="number of mutations")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--only", type=int, nargs="*", help="only these mutations, each in a new worker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--real", type=Path, default=REAL_FILES, help="folder of real files to damage")
    parser.add_argument("--findings", type=Path, help="folder for files that fail")
    parser.add_argument("--json", type=Path, help="file for counts and failures")
    options = parser.parse_args()
    numbers = options.only or range(options.first, options.first + options.count)
    results: list[tuple[Case, Outcome]] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make_seeds(Path(folder) / "seeds")
        seeds = list_seeds(Path(folder) / "seeds", options.real)
        files_per_worker = 1 if options.only else FILES_PER_WORKER
        for outcome in run_cases(seeds, options.seed, numbers, options.workers, files_per_worker):
            case = make_case(seeds, options.seed, outcome.number)
            results.append((replace(case, files={}), outcome))
            is_reported = bool(options.only) or outcome.kind in FAILURES
            if is_reported:
                print(f"{case.number} {case.seed} {case.mutation} {case.mode}: {outcome.kind}, {outcome.message}")
                print(f"    {outcome.frames} frames, {outcome.seconds:.1f} s, {outcome.memory >> 20} MB", flush=True)
            if options.findings and is_reported:
                finding = options.findings / f"{options.seed}-{case.number}"
                shutil.rmtree(finding, ignore_errors=True)
                finding.mkdir(parents=True)
                case.write(finding)
            if len(results) % 100 == 0:
                print(f"{len(results)} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    results.sort(key=lambda result: result[0].number)
    summary = summarize(results)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=1) + "\n")
    seconds = time.monotonic() - start
    print(f"{summary['count']} files in {seconds:.0f} s: {summary['outcomes']}, {summary['timed_out']} timed out")
    print(f"at most {summary['max_memory'] >> 20} MB and {summary['max_seconds']:.1f} s; ", end="")
    print(f"random access differs from reading in order: {len(summary['random_differs'])}")
    for name, counts in summary["by_mutation"].items():
        print(f"    {name:14} {counts}")
    return 1 if summary["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
