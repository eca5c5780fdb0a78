"""REDS: ``train_sharp/000`` to ``239`` and ``val_sharp/000`` to ``029``, with the degraded frames of NTIRE 2019."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from src.data.layouts.expected import Expected
from src.data.splits import Clip, Splits
from src.errors import UserError
from src.video.discovery import PACKED_SUFFIX, find_clip

EXPECTED = Expected(
    content="REDS (folders train_sharp and val_sharp)",
    source="https://seungjunnah.github.io/Datasets/reds.html",
    counts={"all": 270},  # in any split
    size=(720, 1280),
    frames=100,
)
TRACKS: dict[str, tuple[str, ...]] = {  # of NTIRE 2019: folder, and the corruptions of its frames
    "sharp_bicubic/X4": ("bicubic",),
    "blur_bicubic/X4": ("blur", "bicubic"),
    "blur": ("blur",),
    "blur_comp": ("blur", "compression"),
}
REDS4 = ("000", "011", "015", "020")  # EDVR, Section 4.1
TRAINING_CLIPS = 240  # validation clips in the same folder have higher numbers


def reds(root: Path | str, split: str = "reds4", hold_back: int = 0) -> Splits:
    """Return the clips of REDS.

    The degraded frames of NTIRE 2019 (``train_sharp_bicubic/X4``, ``train_blur``, ``train_blur_bicubic/X4``,
    ``train_blur_comp``, and the same of ``val``) are used if they exist and the degradation begins with their
    corruptions; otherwise frames are degraded on the fly. Validation clips in ``train_sharp/240`` to ``269``, as the
    published training code moves them, are recognised.

    Args:
        root: the folder of these folders, possibly within subfolders ``train`` and ``val``.
        split: ``reds4`` tests on training clips 000, 011, 015 and 020 and trains on the 266 others; ``official`` trains
            on the 240 training clips and tests on the 30 validation clips; ``all`` trains on all 270 (WDVR, Section
            4.2), without a test.
        hold_back: number of training clips, evenly spread, used for validation instead; the paper uses none.

    Raises:
        UserError: the data set or a test clip is missing.
    """
    if split not in ("reds4", "official", "all"):
        raise UserError(f"data.layout.split must be reds4, official or all, got {split}")
    root = Path(root)
    train, val = _find_clips(root, "train"), _find_clips(root, "val")
    if not train and not val:
        raise EXPECTED.missing_from(root)
    moved = {f"{int(name) - TRAINING_CLIPS:03d}": clip for name, clip in train.items() if int(name) >= TRAINING_CLIPS}
    train = {name: clip for name, clip in train.items() if int(name) < TRAINING_CLIPS}
    val = {f"val_{name}": replace(clip, name=f"val_{name}") for name, clip in {**moved, **val}.items()}
    if split != "reds4" and not (train and val):
        lacking = "val_sharp" if train else "train_sharp"
        raise UserError(f"{root} lacks {lacking}, required by data.layout.split={split}")
    if split == "official":
        pool, test = train, list(val.values())
    elif split == "all":
        pool, test = {**train, **val}, []
    else:
        if absent := [name for name in REDS4 if train and name not in train]:
            raise UserError(f"{root} lacks {', '.join(absent)} of the test set REDS4: unpack train_sharp again")
        test = [train[name] for name in REDS4 if name in train]
        pool = {name: clip for name, clip in {**train, **val}.items() if name not in REDS4}
    names = sorted(pool)
    held = {names[k * len(names) // hold_back] for k in range(hold_back)} if 0 < hold_back < len(names) else set()
    return Splits([pool[n] for n in names if n not in held], [pool[n] for n in names if n in held], test)


def _find_clips(root: Path, part: str) -> dict[str, Clip]:
    """Return the clips of ``train`` or ``val`` by number, with the folders of their tracks."""
    base = next((folder for folder in (root, root / part) if (folder / f"{part}_sharp").is_dir()), None)
    if base is None:
        return {}
    tracks = {
        corruptions: base / f"{part}_{name}"
        for name, corruptions in TRACKS.items()
        if (base / f"{part}_{name}").is_dir()
    }
    names = {path.name.removesuffix(PACKED_SUFFIX) for path in (base / f"{part}_sharp").iterdir()}
    clips = {name: find_clip(base / f"{part}_sharp" / name) for name in sorted(names) if name.isdigit()}
    return {
        name: Clip(
            name,
            path.resolve(),
            precomputed={key: clip for key, track in tracks.items() if (clip := find_clip(track / name))},
        )
        for name, path in clips.items()
        if path
    }
