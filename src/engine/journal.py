"""What of a video is restored already, so that one that was cut off goes on: finished parts in a folder beside it.

A part is some output frames, encoded on their own; it has its name only when it is whole. The name also says with
which input frame the shot begins that the part ends in, which is all that going on behind it needs to know.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.atomic import file_lock
from src.errors import UserError

NAME = re.compile(r"(\d{6,})-(\d+)(\.nut)?")


class Journal:
    """The parts of one output.

    Args:
        output: what the parts are going to make; they lie in a hidden folder beside it.
        plan: all that the parts depend on, ready for JSON.
        chosen: what was found out for this machine (tiles, say), with which a restoration has to go on, too.
        suffix: of the parts; empty where they are folders.
        anew: throws away parts that were made in another way.

    Raises:
        UserError: parts lie there that were made in another way.
    """

    def __init__(
        self,
        output: Path,
        plan: Mapping[str, Any],
        chosen: Mapping[str, Any],
        *,
        suffix: str = ".nut",
        anew: bool = False,
    ) -> None:
        self.output, self.folder, self.suffix = output, self.place(output), suffix
        file = self.folder / "plan.json"
        given = json.loads(json.dumps(plan))
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_once(file, json.dumps({"plan": given, "chosen": chosen}, indent=1))
        before = json.loads(file.read_text(encoding="utf-8"))  # another rank's, if that was first
        changed = sorted(key for key in {*before["plan"], *given} if before["plan"].get(key) != given.get(key))
        if changed and not anew:
            raise UserError(
                f"{output} was begun with another {' and '.join(changed)}: give the same again to go on with it, or "
                "overwrite=true to begin anew."
            )
        if changed:
            with self.held():  # nobody else is at them
                self.clear()
            self.folder.mkdir(parents=True)
            _write_once(file, json.dumps({"plan": given, "chosen": chosen}, indent=1))
            before = {"chosen": chosen}
        self.chosen: dict[str, Any] = before["chosen"]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps another command from restoring the same output meanwhile; ended in any way, this one holds it no more.

        Raises:
            UserError: another one is at it.
        """
        busy = f"{self.output} is being restored by another command: wait for it, or end it."
        with file_lock(self.folder / "held", busy):
            yield

    @staticmethod
    def place(output: Path) -> Path:
        """Where the parts of an output lie."""
        return output.absolute().with_name(f".{output.name}.parts")

    def part(self, number: int) -> Path:
        """Where part ``number`` is written before it is finished."""
        return self.folder / f"{number:06d}{self.suffix}"

    def finish(self, number: int, shot: int) -> None:
        """Part ``number`` is whole, and ends in the shot that begins with input frame ``shot``."""
        os.replace(self.part(number), self.folder / f"{number:06d}-{shot}{self.suffix}")

    def finished(self) -> dict[int, tuple[Path, int]]:
        """The parts that are whole by number, ascending, and the shots that they end in."""
        found = {}
        for path in self.folder.iterdir():
            if match := NAME.fullmatch(path.name):
                found[int(match[1])] = path, int(match[2])
        return dict(sorted(found.items()))

    def missing(self, parts: int) -> list[int]:
        """The numbers of the parts that are not whole."""
        finished = self.finished()
        return [number for number in range(parts) if number not in finished]

    def clear(self) -> None:
        """Removes all parts: all at once they have their place no more, so that none is left there without the others,
        or without their plan, when this is cut off.
        """
        gone = self.folder.with_name(f"{self.folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)  # left by one that was cut off
        try:
            os.replace(self.folder, gone)
        except OSError:  # not every system moves a folder that holds an open file
            gone = self.folder
        shutil.rmtree(gone, ignore_errors=True)


def stretches(numbers: Iterable[int]) -> list[range]:
    """Ascending numbers as stretches without gaps."""
    found: list[range] = []
    for number in numbers:
        if found and found[-1].stop == number:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found


def _write_once(path: Path, text: str) -> None:
    """Writes a file that is never seen half written, unless it is there already."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # not every file system has links
        os.replace(draft, path)
    draft.unlink(missing_ok=True)
