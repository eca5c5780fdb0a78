"""Journal of a restoration: finished parts, kept in a folder beside the output so that an interrupted run can resume.

A part is a number of output frames, encoded on their own. It gets its final name when it is complete. The name records
the input frame at which the part's last scene begins; the next part needs nothing else.
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

FINISHED_NAME = re.compile(r"(\d{6,})-(\d+)(\.nut)?")


class Journal:
    """The parts of one output.

    Args:
        output: path of the restored video (file or folder); the parts lie in a hidden folder beside it.
        plan: everything that determines the content of the parts, JSON-serializable.
        machine_options: options fitted to this machine, such as tiles; a resumed restoration keeps those of its start.
        suffix: suffix of the parts' names; empty if they are folders.
        restart: discard parts of another plan.

    Attributes:
        machine_options: those of the first start.

    Raises:
        UserError: there are parts of another plan.
    """

    def __init__(
        self,
        output: Path,
        plan: Mapping[str, Any],
        machine_options: Mapping[str, Any],
        *,
        suffix: str = ".nut",
        restart: bool = False,
    ) -> None:
        self.output, self.folder, self.suffix = output, self.locate(output), suffix
        plan_file = self.folder / "plan.json"
        requested = json.loads(json.dumps(plan))
        content = json.dumps({"plan": requested, "chosen": machine_options}, indent=1)
        if not plan_file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_once(plan_file, content)
        stored = json.loads(plan_file.read_text(encoding="utf-8"))  # possibly written first by another rank
        keys = {*stored["plan"], *requested}
        changed = sorted(key for key in keys if stored["plan"].get(key) != requested.get(key))
        if changed and not restart:
            raise UserError(
                f"{output} was started with different settings ({', '.join(changed)}). Use the original ones to "
                "resume, or overwrite=true to start over."
            )
        if changed:
            with self.lock():
                self.clear()
            self.folder.mkdir(parents=True)
            _write_once(plan_file, content)
            stored = {"chosen": machine_options}
        self.machine_options: dict[str, Any] = stored["chosen"]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold an exclusive lock on the output; it is released when the process ends, however it ends.

        Raises:
            UserError: another command holds it.
        """
        busy = f"{self.output} is being restored by another command. Wait for it, or stop it."
        with file_lock(self.folder / "held", busy):
            yield

    @staticmethod
    def locate(output: Path) -> Path:
        """Return the folder for the parts of an output."""
        return output.absolute().with_name(f".{output.name}.parts")

    def draft_path(self, number: int) -> Path:
        """Return the path for part ``number`` until it is finished."""
        return self.folder / f"{number:06d}{self.suffix}"

    def finish(self, number: int, scene: int) -> None:
        """Mark part ``number`` as complete; it ends in the scene that starts at input frame ``scene``."""
        os.replace(self.draft_path(number), self.folder / f"{number:06d}-{scene}{self.suffix}")

    def list_finished(self) -> dict[int, tuple[Path, int]]:
        """Return the path of each complete part, and the first frame of its last scene, by number, ascending."""
        finished = {}
        for path in self.folder.iterdir():
            if match := FINISHED_NAME.fullmatch(path.name):
                finished[int(match[1])] = path, int(match[2])
        return dict(sorted(finished.items()))

    def list_missing(self, count: int) -> list[int]:
        """Return the numbers below ``count`` of the parts that are not complete."""
        finished = self.list_finished()
        return [number for number in range(count) if number not in finished]

    def clear(self) -> None:
        """Delete all parts and the plan.

        The folder is renamed first, so that an interruption never leaves parts without their plan.
        """
        discarded = self.folder.with_name(f"{self.folder.name}.gone")
        shutil.rmtree(discarded, ignore_errors=True)  # of an interrupted clear
        try:
            os.replace(self.folder, discarded)
        except OSError:  # some systems cannot rename a folder with an open file
            discarded = self.folder
        shutil.rmtree(discarded, ignore_errors=True)


def group_ranges(numbers: Iterable[int]) -> list[range]:
    """Group ascending numbers into ranges without gaps."""
    ranges: list[range] = []
    for number in numbers:
        if ranges and ranges[-1].stop == number:
            ranges[-1] = range(ranges[-1].start, number + 1)
        else:
            ranges.append(range(number, number + 1))
    return ranges


def _write_once(path: Path, text: str) -> None:
    """Write a file atomically unless it exists."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # some file systems have no links
        os.replace(draft, path)
    draft.unlink(missing_ok=True)
