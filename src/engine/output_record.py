"""Record of the restored videos in a folder: the file that each was made from.

It tells outputs from originals where both lie in one folder, and keeps their names when other videos join them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from src.atomic import atomic_write
from src.engine.journal import Journal

FILE_NAME = ".restored.json"


class OutputRecord:
    """The outputs in ``folder``, begun or finished.

    Attributes:
        sources: path of the source, relative to the folder, by the name of the output.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources: dict[str, str] = {}  # planned ones, too: a command that goes on names them as before
        with suppress(OSError, ValueError, TypeError):  # there is none, or it is damaged
            self.sources = dict(json.loads((folder / FILE_NAME).read_text(encoding="utf-8")))

    def _exists(self, name: str) -> bool:
        output = self.folder / name
        return output.exists() or Journal.locate(output).exists()

    def _describe(self, source: Path) -> str:
        return os.path.relpath(source.resolve(), self.folder.resolve())

    def find_name(self, source: Path, names: Iterable[str]) -> str | None:
        """Return the one of ``names`` that was made from ``source``; None if there is none."""
        described = self._describe(source)
        return next((name for name in names if self.sources.get(name) == described), None)

    def list_made(self) -> set[str]:
        """List the names in the folder that no one else has made: outputs, and the folders of their previews."""
        made = [name for name in self.sources if self._exists(name)]
        return {*made, *(f"{Path(name).stem}.preview" for name in made)}

    def add(self, pairs: Iterable[tuple[Path, Path]]) -> None:
        """Record sources and their outputs in this folder."""
        self.sources |= {output.name: self._describe(source) for source, output in pairs}
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / FILE_NAME) as file:
            json.dump(self.sources, file, indent=1)
