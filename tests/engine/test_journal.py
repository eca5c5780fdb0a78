"""Whatever is cut off, and wherever: what is finished stays, and nothing of another way is taken for it."""

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
CHANGES = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}  # what Python reports before it does it


class Command(NamedTuple):
    """One call of a restoration: opens the journal, restores missing parts, and removes all when all are there."""

    quality: int
    anew: bool
    parts: int  # that it comes to, if nothing cuts it off
    cut: int  # the change to files before which it is killed; where it makes fewer, it ends in peace


def restore(output: Path, suffix: str, command: Command) -> None:
    plan = {"quality": command.quality, "segment": None}
    journal = Journal(output, plan, {"tile": command.quality}, suffix=suffix, restart=command.anew)
    for number in journal.list_missing(PARTS)[: command.parts]:
        write(journal.draft_path(number), number, journal.machine_options["tile"])
        journal.finish(number, 10 * number)
    if not journal.list_missing(PARTS):
        with journal.lock():
            journal.clear()


def write(part: Path, number: int, quality: int) -> None:
    """A part of two frames, a file or a folder, one frame after the other."""
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


def killed(work: Callable[[], None], cut: int) -> int:
    """The exit code of a process that does some work and is killed before its change to files number ``cut``."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code, changes = 1, itertools.count()

    def watch(event: str, arguments: tuple) -> None:
        writes = event in CHANGES and (event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR)))
        if writes and next(changes) == cut:
            os._exit(CUT_OFF)

    try:
        sys.addaudithook(watch)
        work()
        code = 0
    except UserError:
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def state(output: Path, suffix: str) -> tuple[int | None, dict[int, str]]:
    """How what lies there was begun, if it was, and what each finished part holds."""
    file = Journal.locate(output) / "plan.json"
    if not file.exists():
        return None, {}
    plan = json.loads(file.read_text())["plan"]
    journal = Journal(output, plan, {}, suffix=suffix)
    there = journal.list_finished()
    assert sorted([*there, *journal.list_missing(PARTS)]) == [*range(PARTS)]
    assert len(list(journal.folder.glob("*-*"))) == len(there)
    assert all(shot == 10 * number for number, (_, shot) in there.items())
    return plan["quality"], {number: read(part) for number, (part, _) in there.items()}


def whole(quality: int, parts: int) -> dict[int, str]:
    return {number: f"{number} {quality} whole" for number in range(parts)}


CUTS = st.integers(0, 8) | st.integers(0, 40)  # while it is opened, or later; a command makes less than 40 changes
COMMANDS = st.builds(Command, st.integers(1, 2), st.booleans(), st.integers(0, PARTS), CUTS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")
@given(st.lists(COMMANDS, min_size=1, max_size=3), st.sampled_from([".nut", ""]))
@settings(max_examples=40)
def test_killed_between_any_two_changes_nothing_is_lost_or_mixed(commands: list[Command], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / ("out.mkv" if suffix else "out")
        quality: int | None = None
        there: dict[int, str] = {}
        for command in commands:
            before = len(there) if command.quality == quality else 0
            expected = min(PARTS, before + command.parts)
            code = killed(partial(restore, output, suffix, command), command.cut)
            if quality not in (None, command.quality) and not command.anew:
                assert code == REFUSED
                assert state(output, suffix) == (quality, there)
                continue
            assert code in (0, CUT_OFF)
            begun, (quality, there) = quality, state(output, suffix)
            if code == 0:
                assert (quality, len(there)) == ((None, 0) if expected == PARTS else (command.quality, expected))
            elif quality == command.quality:
                assert before <= len(there) <= expected
            else:  # it is being begun anew, or done
                assert quality in (None, begun)
            assert there == whole(quality or 0, len(there))
        restore(output, suffix, Command(3, anew=True, parts=PARTS - 1, cut=0))
        assert state(output, suffix) == (3, whole(3, PARTS - 1))


SETTINGS = st.dictionaries(
    st.sampled_from("abc"), st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.tuples(st.integers())
)


@given(SETTINGS, SETTINGS)
@settings(max_examples=40)
def test_other_settings_are_refused_and_named(before: dict, after: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.mkv"
        journal = Journal(output, before, {"tile": 1})
        journal.draft_path(0).touch()
        journal.finish(0, 0)
        changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        if changed:
            with pytest.raises(UserError, match=rf"started with another {' and '.join(changed)}\. Use"):
                Journal(output, after, {"tile": 2})
        else:
            assert Journal(output, after, {"tile": 2}).machine_options == {"tile": 1}  # those of the first start
        assert [*Journal(output, before, {}).list_finished()] == [0]
        anew = Journal(output, after, {"tile": 2}, restart=True)
        assert (len(anew.list_finished()), anew.machine_options["tile"]) == ((0, 2) if changed else (1, 1))


NUMBERS = st.integers(0, 12) | st.integers(10**6 - 2, 10**6 + 2)  # of parts, whose names have room for six digits


@given(st.dictionaries(NUMBERS, st.integers(0, 10**9), max_size=6), st.sets(NUMBERS, max_size=3))
@settings(max_examples=40)
def test_parts_are_found_in_whatever_order_they_are_finished(shots: dict[int, int], begun: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "out.mkv", {}, {})
        for number in {*shots, *begun}:
            journal.draft_path(number).touch()
        for number, shot in shots.items():
            journal.finish(number, shot)
        found = Journal(Path(folder) / "out.mkv", {}, {}).list_finished()
        assert [(number, shot) for number, (_, shot) in found.items()] == sorted(shots.items())
        assert all(path.exists() for path, _ in found.values())
        assert journal.list_missing(14) == [number for number in range(14) if number not in shots]


@given(st.sets(st.integers(0, 30)))
@settings(max_examples=60)
def test_stretches_are_the_numbers_without_gaps(numbers: set[int]) -> None:
    found = group_ranges(sorted(numbers))
    assert [number for stretch in found for number in stretch] == sorted(numbers)
    assert all(stretch.stop < after.start for stretch, after in itertools.pairwise(found))
