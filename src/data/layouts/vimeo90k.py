"""Vimeo-90K septuplets: ``sequences/<sequence>/<clip>/im1.png`` to ``im7.png``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from src.data.layouts.expected import Expected
from src.data.splits import Clip, Splits, read_list
from src.errors import UserError
from src.video import packed
from src.video.discovery import PACKED_SUFFIX

TINY = 8192  # bytes; a PNG of one colour has about 1 kB at 448x256, a picture ten times this
SUBSETS = ("fast", "medium", "slow")


def vimeo90k(root: Path | str, test_list: str = "all", hold_back: int = 0) -> Splits:
    """Return the septuplets of Vimeo-90K.

    The test clips are those of ``fast_testset.txt``, ``medium_testset.txt`` and ``slow_testset.txt``, published with
    Zooming Slow-Mo (put them beside ``sep_testlist.txt``). Each is a subset with its own mean. Clips with two
    consecutive all-black frames are excluded by a test of their pixels. Without these files, the test clips are those
    of ``sep_testlist.txt``. Low-resolution frames (``vimeo_septuplet_matlabLRx4/sequences``) are used if they lie in
    or beside the data set.

    Args:
        root: the folder of ``sequences``, or its parent with a folder ``vimeo_septuplet``.
        test_list: ``all`` three subsets, one of them, or ``sep`` for ``sep_testlist.txt``.
        hold_back: number of training clips, evenly spread over the list, used for validation instead. The papers use
            none.

    Raises:
        UserError: the data set is missing or incomplete.
    """
    base = find_base(Path(root))
    low = _find_low_resolution(base)
    names = _read_list(base / "sep_trainlist.txt")
    every = max(1, len(names) // hold_back) if hold_back else 0
    held = set(names[every - 1 :: every][:hold_back]) if every else set()
    subsets = [name for name in SUBSETS if (base / f"{name}_testset.txt").is_file()]
    if test_list not in ("all", "sep", *SUBSETS):
        raise UserError(f"data.layout.test_list must be all, fast, medium, slow or sep, got {test_list}")
    if test_list in SUBSETS and test_list not in subsets:
        raise UserError(f"{base} has no {test_list}_testset.txt: put the list beside sep_testlist.txt")
    make = partial(_make_clip, _path_of(base / "sequences"), _path_of(low) if low else None)
    validate = [make(key) for key in names if key in held]
    if test_list == "sep" or not subsets:
        test = [make(key) for key in _read_list(base / "sep_testlist.txt")]
    else:
        chosen = subsets if test_list == "all" else [test_list]
        test = [make(key, subset) for subset in chosen for key in _read_list(base / f"{subset}_testset.txt")]
        test = _exclude_black(test)
    return Splits([make(key) for key in names if key not in held], _exclude_black(validate), test)


def find_base(root: Path) -> Path:
    """Return the folder of ``sequences`` and the list files.

    Raises:
        UserError: there is none.
    """
    for base in (root, root / "vimeo_septuplet"):
        if (base / "sequences").is_dir():
            return base.resolve()
    raise EXPECTED.missing_from(root)


EXPECTED = Expected(
    content="Vimeo-90K septuplets (folder sequences and its lists)",
    source="http://toflow.csail.mit.edu",
    counts={  # without all-black clips: the ZSM paper (section 4.1) removes 5 medium and 3 slow ones
        "sep_trainlist.txt": 64612,
        "sep_testlist.txt": 7824,
        "fast": 1225,
        "medium": 4972,
        "slow": 1610,
    },
    size=(256, 448),
    frames=7,
    list_folder=find_base,
)


def _find_low_resolution(base: Path) -> Path | None:
    candidates = [
        base.parent / "vimeo_septuplet_matlabLRx4" / "sequences",  # its name in BasicSR
        base / "vimeo_septuplet_matlabLRx4" / "sequences",
        base / "sequences_LR",
        base / "sequences_LRx4",
    ]
    return next((folder for folder in candidates if folder.is_dir()), None)


def _path_of(sequences: Path) -> Callable[[str], Path]:
    """Return a function from a clip's key to its path. The first one found shows whether all 91,701 are packed."""
    suffix = PACKED_SUFFIX if next(sequences.glob("*/[!.]*"), sequences).suffix == PACKED_SUFFIX else ""
    return lambda key: sequences / f"{key}{suffix}"


def _make_clip(high: Callable[[str], Path], low: Callable[[str], Path] | None, key: str, subset: str = "") -> Clip:
    return Clip(key, high(key), subset, stop=7, precomputed={("bicubic",): low(key)} if low else {})


def _read_list(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path} is missing: it is part of the data set ({EXPECTED.source})")
    return read_list(path)


def _exclude_black(clips: Sequence[Clip]) -> list[Clip]:
    with ThreadPoolExecutor(16) as pool:  # the time goes into the file system
        return [clip for clip, black in zip(clips, pool.map(_has_black_pair, clips), strict=True) if not black]


def _has_black_pair(clip: Clip) -> bool:
    """Return ``True`` if two consecutive frames are all black. Of two neighbours in im1 to im7, one is even."""
    if not clip.path.is_dir() and clip.path.suffix == PACKED_SUFFIX:
        black = packed.find_black_frames(clip.path)
        return any(first and second for first, second in pairwise(black))
    frames = [clip.path / f"im{i}.png" for i in range(1, 8)]
    return any(_is_black(frames[i]) and (_is_black(frames[i - 1]) or _is_black(frames[i + 1])) for i in (1, 3, 5))


def _is_black(frame: Path) -> bool:
    try:
        if frame.stat().st_size > TINY:
            return False
        with Image.open(frame) as image:
            return not np.asarray(image).any()
    except OSError as error:
        raise UserError(f"{frame} cannot be read ({error}): unpack the data set again") from error
