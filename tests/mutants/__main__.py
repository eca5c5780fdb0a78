"""Make lines of the suite wrong, one at a time, and report which changes no test notices.

    python -m tests.mutants --count 300 --seed 0             # a sample over all folders, at least 15 of each
    python -m tests.mutants --since main~3                    # of the lines changed since a revision
    python -m tests.mutants --file src/geometry.py --count 50

Of each change, only the tests that run its line are run, the quickest first. Changes without effect stand in
equivalents.yaml with the reason, and are not tried.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

import yaml

from tests.mutants.changes import Change, list_changes
from tests.mutants.selection import Coverage, measure
from tests.mutants.trial import Copy, list_libraries

ROOT = Path(__file__).resolve().parents[2]
LEAST = 15  # changes of a folder


@dataclass(frozen=True)
class Result:
    """Outcome of one change: "noticed", "time" (over the limit: noticed, too), "survived" or "untested"."""

    change: Change
    verdict: str
    seconds: float
    tests: Sequence[str]

    @property
    def is_noticed(self) -> bool:
        return self.verdict in ("noticed", "time")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="See whether tests notice wrong code.")
    parser.add_argument("--count", type=int, default=100, help="number of changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--since", help="only lines changed since this revision")
    parser.add_argument("--file", nargs="*", default=[], help="only these files")
    parser.add_argument("--workers", type=int, default=2, help="changes tried at a time")
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests for a change")
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args()
    changes = draw(list_all(options.file, options.since), options.count, options.seed)
    if not changes:
        sys.exit("No such code can be changed.")
    coverage = measure(ROOT, Path(tempfile.gettempdir(), "mutants", hash_tree()))
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for result in try_all(changes, coverage, Path(folder), options.workers, options.budget):
            results.append(result)
            if not result.is_noticed:
                print(f"{result.verdict}: {result.change}\n    run by {describe_tests(result.tests)}", flush=True)
            elif len(results) % 25 == 0:
                print(f"{len(results)} of {len(changes)} tried", flush=True)
            if options.json:
                options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    print(summarize(results))
    return 0


def list_all(files: Sequence[str], since: str | None) -> list[Change]:
    """List the changes of the suite's files, without those known to have no effect."""
    paths = [ROOT / file for file in files] or sorted((ROOT / "src").rglob("*.py"))
    found = [c for path in paths for c in list_changes(str(path.relative_to(ROOT)), path.read_bytes())]
    known = {(e["file"], e["line"], e["old"], e["new"]) for e in read_equivalents()}
    found = [change for change in found if (change.file, change.statement, change.old, change.new) not in known]
    if since:
        changed = read_changed_lines(since)
        found = [change for change in found if changed[change.file] & set(range(change.lines[0], change.lines[1] + 1))]
    return found


def read_equivalents() -> list[dict[str, str]]:
    """Read the changes that have no effect: file, line (its text), old, new and reason."""
    return yaml.safe_load(Path(__file__).with_name("equivalents.yaml").read_text(encoding="utf-8")) or []


def read_changed_lines(since: str) -> dict[str, set[int]]:
    """Return the lines of each file that differ from a revision."""
    command = ["git", "diff", "--unified=0", since, "--", "src"]
    diff = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if diff.returncode:
        sys.exit(f"There is no revision {since}.")
    lines: dict[str, set[int]] = defaultdict(set)
    file = ""
    for line in diff.stdout.splitlines():
        if line.startswith("+++ "):
            file = line.removeprefix("+++ b/")
        elif found := re.match(r"@@ \S+ \+(\d+)(?:,(\d+))? @@", line):
            lines[file].update(range(int(found[1]), int(found[1]) + int(found[2] or 1)))
    return lines


def draw(changes: Sequence[Change], count: int, seed: int) -> list[Change]:
    """Draw changes at random: of each folder ``LEAST`` where it has as many and the count allows, then from all."""
    generator = random.Random(seed)
    shuffled = generator.sample(changes, len(changes))
    folders = {change.folder for change in changes}
    least = min(LEAST, count // max(1, len(folders)))
    taken: Counter[str] = Counter()
    first, others = [], []
    for change in shuffled:
        taken[change.folder] += 1
        (first if taken[change.folder] <= least else others).append(change)
    drawn = [*first, *others[: max(0, count - len(first))]]
    return generator.sample(drawn, len(drawn))


def try_all(
    changes: Sequence[Change], coverage: Coverage, folder: Path, workers: int, budget: float
) -> Iterator[Result]:
    """Yield results in the order of the changes."""
    libraries, copies = list_libraries(), SimpleQueue[Copy]()
    opened = [Copy(ROOT, folder / str(number) / "project", libraries) for number in range(workers)]
    for copy in opened:
        copies.put(copy)

    def attempt(change: Change) -> Result:
        tests = coverage.select(change, budget)
        if not tests:
            return Result(change, "untested", 0.0, tests)
        limit = 30 + 5 * sum(coverage.seconds.get(test, 0) for test in tests)
        copy = copies.get()
        try:
            return Result(change, *copy.attempt(change, tests, limit), tests)
        finally:
            copies.put(copy)

    try:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(attempt, changes)
    finally:
        for copy in opened:
            copy.close()


def summarize(results: Sequence[Result]) -> str:
    """Return a table of the noticed share of each folder."""
    tried = Counter(result.change.folder for result in results)
    noticed = Counter(result.change.folder for result in results if result.is_noticed)
    lines = [
        f"{folder:20} {noticed[folder]:4} of {tried[folder]:4}  {noticed[folder] / tried[folder]:4.0%}"
        for folder in sorted(tried)
    ]
    total = f"{noticed.total()} of {tried.total()} noticed ({noticed.total() / tried.total():.1%})"
    return "\n".join([*lines, total])


def describe_tests(tests: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(tests) - shown} more" if len(tests) > shown else ""
    return ", ".join(tests[:shown]) + more or "no test"


def hash_tree() -> str:
    """Hash the code and the tests, for which coverage is measured once."""
    digest = hashlib.sha256()
    for folder in ("src", "tests", "conf"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
