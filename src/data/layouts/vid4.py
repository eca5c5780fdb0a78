"""Vid4: four clips for tests only."""

from __future__ import annotations

from pathlib import Path

from src.data.layouts.expected import Expected
from src.data.splits import Clip, Splits, measure_clip
from src.video.discovery import find_clip

FRAMES = {"calendar": 41, "city": 34, "foliage": 49, "walk": 47}
EXPECTED = Expected(
    content=f"Vid4 (folders {', '.join(FRAMES)})",
    source="https://github.com/yhjo09/VSR-DUF (inputs/G)",
    counts={"test": 4},
    frames=FRAMES,
)


def vid4(root: Path | str) -> Splits:
    """Return the clips ``calendar``, ``city``, ``foliage`` and ``walk`` of Vid4 as the test set.

    Args:
        root: the folder that holds them, directly or under ``GT/`` or ``original/``; the frames of a clip may lie in a
            subfolder ``original``.

    Raises:
        UserError: a clip is missing.
    """
    root = Path(root)
    for base in (root, root / "GT", root / "original"):
        candidates = [find_clip(base / name / inner) for name in FRAMES for inner in ("", "original")]
        lengths = [(path, measure_clip(path)[0]) for path in candidates if path]
        clips = [(path, length) for path, length in lengths if path.is_file() or length]
        if len(clips) == len(FRAMES):
            return Splits(
                test=[
                    Clip(name, path.resolve(), stop=length) for name, (path, length) in zip(FRAMES, clips, strict=True)
                ]
            )
    raise EXPECTED.missing_from(root)
