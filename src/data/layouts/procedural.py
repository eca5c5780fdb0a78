"""Built-in scenes, rendered at 240 fps and read at 120."""

from __future__ import annotations

import json
from pathlib import Path

from src.data.layouts.folder import folder
from src.data.procedural.scenes import SPLITS, prepare
from src.data.splits import Splits


def procedural(
    root: Path | str,
    *,
    step: int = 2,
    train: int = 12,
    validate: int = 2,
    test: int = 4,
    height: int = 256,
    width: int = 384,
    frames: int = 240,
    fps: int = 240,
    seed: int = 0,
) -> Splits:
    """Return the built-in scenes at ``root``; render the missing ones first.

    Args:
        root: folder of the scenes.
        step: every ``step``-th frame is a source frame.
        train, validate, test, height, width, frames, fps, seed: options of the scenes; see
            :func:`src.data.procedural.scenes.prepare`.

    Raises:
        UserError: ``root`` holds something else.
    """
    announced = False

    def announce(line: str) -> None:
        nonlocal announced
        if not announced:
            print(f"Rendering the built-in scenes into {root}, once; this takes minutes.", flush=True)
        announced = True

    prepare(root, train, validate, test, height, width, frames, fps, seed, log=announce)
    return folder(root, step=step)


def find_missing_scenes(root: Path) -> str | None:
    """Return an error message about scenes missing at ``root``, ``None`` if they are complete."""
    try:
        counts = json.loads((root / "procedural.json").read_text())
        total = sum(int(counts[split]) for split in SPLITS)
    except (OSError, ValueError, KeyError, TypeError):
        return f"No built-in scenes in {root.absolute()}: `task=prepare data=procedural` renders them"
    rendered = len(list(root.glob("*/scene_*.mp4")))
    return f"{root}: {rendered} of {total} scenes are rendered; `task=prepare` continues" if rendered < total else None
