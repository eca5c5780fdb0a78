"""Interrupted at any point, a journal keeps its finished parts and never mixes them with those of another plan."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.engine.journal import Journal, group_ranges
from src.errors import UserError

PARTS = 4
REFUSED, CUT_OFF = 3, 9  # exit codes
CHANGES = {
    "open",
    "os.rename",
    "os.link",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
}  # audit events


class Command(NamedTuple):
    """One run of a restoration: open the journal, restore missing parts, and clear it when it is complete."""

    quality: int
    restart: bool
    parts: int  # restored if it is not interrupted
    cut: int  # killed before this change to files, if there are as many


def restore(output: Path, suffix: str, command: Command) -> None:
    plan = {"quality": command.quality, "segment": None}
    journal = Journal(output, plan, {"tile": command.quality}, suffix=suffix, restart=command.restart)
    for number in journal.list_missing(PARTS)[: command.parts]:
        write(journal.draft_path(number), number, journal.machine_options["tile"])
        journal.finish(number, 10 * number)
    if not journal.list_missing(PARTS):
        with journal.lock():
            journal.clear()


def write(part: Path, number: int, quality: int) -> None:
    """Write a part of two frames, a file or a folder, one frame after the other."""
    if part.suffix:
        part.write_text(f"{number} {quality} ")
        with part.open("a") as file:
            file.write("whole")
        return
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    (part / "0.png").write_text(f"{number} {quality} ")
    (part / "1.png").write_text("whole")


def read(part: Path) -> str:
    return part.read_text() if part.suffix else "".join(file.read_text() for file in sorted(part.iterdir()))


def run_and_kill(work: Callable[[], None], cut: int) -> int:
    """Run ``work`` in a process, kill it before change ``cut`` to files, and return the exit code."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code, changes = 1, itertools.count()

    def on_audit_event(event: str, arguments: tuple) -> None:
        writes = event in CHANGES and (event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR)))
        if writes and next(changes) == cut:
            os._exit(CUT_OFF)

    try:
        sys.addaudithook(on_audit_event)
        work()
        code = 0
    except UserError:
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def read_state(output: Path, suffix: str) -> tuple[int | None, dict[int, str]]:
    """Return the quality in the plan, or None without one, and the content of each finished part."""
    file = Journal.locate(output) / "plan.json"
    if not file.exists():
        return None, {}
    plan = json.loads(file.read_text())["plan"]
    journal = Journal(output, plan, {}, suffix=suffix)
    finished = journal.list_finished()
    assert sorted([*finished, *journal.list_missing(PARTS)]) == [*range(PARTS)]
    assert len(list(journal.folder.glob("*-*"))) == len(finished)
    assert all(scene == 10 * number for number, (_, scene) in finished.items())
    return plan["quality"], {number: read(part) for number, (part, _) in finished.items()}


def make_parts(quality: int, parts: int) -> dict[int, str]:
    return {number: f"{number} {quality} whole" for number in range(parts)}


CUTS = st.integers(0, 8) | st.integers(0, 40)  # on opening, or later; a run makes fewer than 40 changes
COMMANDS = st.builds(Command, st.integers(1, 2), st.booleans(), st.integers(0, PARTS), CUTS)


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")
@given(st.lists(COMMANDS, min_size=1, max_size=3), st.sampled_from([".nut", ""]))
@settings(max_examples=40)
def test_killed_between_any_two_changes_no_part_is_lost_or_mixed(commands: list[Command], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / ("out.mkv" if suffix else "out")
        quality: int | None = None
        content: dict[int, str] = {}
        for command in commands:
            before = len(content) if command.quality == quality else 0
            expected = min(PARTS, before + command.parts)
            code = run_and_kill(partial(restore, output, suffix, command), command.cut)
            if quality not in (None, command.quality) and not command.restart:
                assert code == REFUSED
                assert read_state(output, suffix) == (quality, content)
                continue
            assert code in (0, CUT_OFF)
            previous, (quality, content) = quality, read_state(output, suffix)
            if code == 0:
                assert (quality, len(content)) == ((None, 0) if expected == PARTS else (command.quality, expected))
            elif quality == command.quality:
                assert before <= len(content) <= expected
            else:  # restarting, or done
                assert quality in (None, previous)
            assert content == make_parts(quality or 0, len(content))
        restore(output, suffix, Command(3, restart=True, parts=PARTS - 1, cut=0))
        assert read_state(output, suffix) == (3, make_parts(3, PARTS - 1))


SETTINGS = st.dictionaries(
    st.sampled_from("abc"), st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.tuples(st.integers())
)


@given(SETTINGS, SETTINGS)
@settings(max_examples=40)
def test_other_plans_are_refused_and_named(before: dict, after: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.mkv"
        journal = Journal(output, before, {"tile": 1})
        journal.draft_path(0).touch()
        journal.finish(0, 0)
        changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        if changed:
            with pytest.raises(UserError, match=rf"different settings \({', '.join(changed)}\)\. Use"):
                Journal(output, after, {"tile": 2})
        else:
            assert Journal(output, after, {"tile": 2}).machine_options == {"tile": 1}  # those of the first start
        assert [*Journal(output, before, {}).list_finished()] == [0]
        restarted = Journal(output, after, {"tile": 2}, restart=True)
        assert (len(restarted.list_finished()), restarted.machine_options["tile"]) == ((0, 2) if changed else (1, 1))


NUMBERS = st.integers(0, 12) | st.integers(10**6 - 2, 10**6 + 2)  # of parts; their names pad numbers to six digits


@given(st.dictionaries(NUMBERS, st.integers(0, 10**9), max_size=6), st.sets(NUMBERS, max_size=3))
@settings(max_examples=40)
def test_parts_are_found_in_any_order_of_finishing(scenes: dict[int, int], drafts: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "out.mkv", {}, {})
        for number in {*scenes, *drafts}:
            journal.draft_path(number).touch()
        for number, scene in scenes.items():
            journal.finish(number, scene)
        found = Journal(Path(folder) / "out.mkv", {}, {}).list_finished()
        assert [(number, scene) for number, (_, scene) in found.items()] == sorted(scenes.items())
        assert all(path.exists() for path, _ in found.values())
        assert journal.list_missing(14) == [number for number in range(14) if number not in scenes]


@given(st.sets(st.integers(0, 30)))
@settings(max_examples=60)
def test_group_ranges(numbers: set[int]) -> None:
    ranges = group_ranges(sorted(numbers))
    assert [number for span in ranges for number in span] == sorted(numbers)
    assert all(span.stop < after.start for span, after in itertools.pairwise(ranges))
