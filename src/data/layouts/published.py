"""Where each public data set keeps its frames, and its splits.

A layout is a function ``layout(root, **options) -> Splits``. It looks at names, and at pixels only where a data set's
own rules ask for it; a data set that is not there is one sentence that says where to get it. Where a folder of frames
is looked for, a video of the same name (``000.mp4`` for ``000``), into which :mod:`src.data.packing` has packed it,
serves as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.data.layouts.folder import folder
from src.data.procedural.scenes import SPLITS, prepare
from src.data.splits import Clip, Splits, listed, missing
from src.errors import UserError
from src.video import packed
from src.video.discovery import IMAGE_SUFFIXES, PACKED, clip_at
from src.video.reader import open_video

TINY = 8192  # bytes; a PNG of one colour has about 1 kB at 448x256, a picture ten times this


@dataclass(frozen=True)
class Expected:
    """What a whole copy of a data set holds.

    Args:
        source: where to get it.
        counts: clips by list file, subset or split.
        size: (height, width) of its frames, where they all agree.
        frames: frames by clip name, or of every clip.
        unless: files and folders in its root that choose the clips; where one is there, clips are not counted.
    """

    source: str
    counts: dict[str, int] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    frames: dict[str, int] | int | None = None
    unless: tuple[str, ...] = ()


SU_VIDEOS = (
    "https://www.cs.ubc.ca/labs/imager/tr/2017/DeepVideoDeblurring/ "
    "(DeepVideoDeblurring_Dataset_Original_High_FPS_Videos.zip)"
)

EXPECTED: dict[str, Expected] = {
    "vimeo90k": Expected(
        source="http://toflow.csail.mit.edu",
        counts={  # without all-black clips, of which the ZSM paper (section 4.1) removes 5 medium and 3 slow ones
            "sep_trainlist.txt": 64612,
            "sep_testlist.txt": 7824,
            "fast": 1225,
            "medium": 4972,
            "slow": 1610,
        },
        size=(256, 448),
        frames=7,
    ),
    "reds": Expected(
        source="https://seungjunnah.github.io/Datasets/reds.html",
        counts={"all": 270},  # however they are split
        size=(720, 1280),
        frames=100,
    ),
    "vid4": Expected(
        source="https://github.com/yhjo09/VSR-DUF (inputs/G)",
        counts={"test": 4},
        frames={"calendar": 41, "city": 34, "foliage": 49, "walk": 47},
    ),
    "adobe240": Expected(
        source=SU_VIDEOS,
        counts={"all": 133, "test": 8},
        unless=("train_list.txt", "test_list.txt", "train", "test"),
    ),
    "dvd": Expected(
        source=SU_VIDEOS,
        counts={"all": 133},
        unless=("train_list.txt", "test_list.txt", "train", "test"),
    ),
    "gopro": Expected(
        source="https://seungjunnah.github.io/Datasets/gopro.html",
        counts={"train": 22, "test": 11},
        size=(720, 1280),
    ),
    "sony": Expected(
        source="https://github.com/MeiguangJin/slow-motion",
        counts={"all": 63},  # VTSR thesis, section 4.1.1
        unless=("train_list.txt", "test_list.txt"),
    ),
}


# --- Vimeo-90K ---


def vimeo90k(root: Path | str, test_list: str = "all", hold_back: int = 64) -> Splits:
    """Vimeo-90K's septuplets: ``sequences/<sequence>/<clip>/im1.png`` to ``im7.png``.

    The test clips are those of ``fast_testset.txt``, ``medium_testset.txt`` and ``slow_testset.txt`` (published with
    Zooming Slow-Mo; put them beside ``sep_testlist.txt``), each a subset with a mean of its own, without the clips
    that hold consecutive all-black frames, which are found from their pixels; where no such file is there, the clips
    of ``sep_testlist.txt``. Low-resolution frames (``vimeo_septuplet_matlabLRx4/sequences``) are found in or beside
    it.

    Args:
        root: the folder with ``sequences``, or the one that holds ``vimeo_septuplet``.
        test_list: ``all`` three subsets, one of them, or ``sep`` for ``sep_testlist.txt``.
        hold_back: training clips, evenly spread over the list, that validate instead. The papers hold back none.

    Raises:
        UserError: it is not there, or not whole.
    """
    base = _vimeo_base(Path(root))
    low = _vimeo_low(base)
    listed = _listed(base / "sep_trainlist.txt")
    every = max(1, len(listed) // hold_back) if hold_back else 0
    held = set(listed[every - 1 :: every][:hold_back]) if every else set()
    subsets = [name for name in ("fast", "medium", "slow") if (base / f"{name}_testset.txt").is_file()]
    if test_list not in ("all", "sep", "fast", "medium", "slow"):
        raise UserError(f"test_list={test_list} is none of all, fast, medium, slow and sep")
    if test_list in ("fast", "medium", "slow") and test_list not in subsets:
        raise UserError(f"there is no {test_list}_testset.txt in {base}: put the list beside sep_testlist.txt")
    make = partial(_septuplet, _places(base / "sequences"), _places(low) if low else None)
    validate = [make(key) for key in listed if key in held]
    if test_list == "sep" or not subsets:
        test = [make(key) for key in _listed(base / "sep_testlist.txt")]
    else:
        chosen = subsets if test_list == "all" else [test_list]
        test = [make(key, subset) for subset in chosen for key in _listed(base / f"{subset}_testset.txt")]
        test = _without_black(test)
    return Splits([make(key) for key in listed if key not in held], _without_black(validate), test)


def _vimeo_base(root: Path) -> Path:
    for base in (root, root / "vimeo_septuplet"):
        if (base / "sequences").is_dir():
            return base.resolve()
    raise missing("Vimeo-90K septuplets (the folder sequences and its lists)", root, EXPECTED["vimeo90k"].source)


def _vimeo_low(base: Path) -> Path | None:
    places = [
        base.parent / "vimeo_septuplet_matlabLRx4" / "sequences",  # BasicSR's name for it
        base / "vimeo_septuplet_matlabLRx4" / "sequences",
        base / "sequences_LR",
        base / "sequences_LRx4",
    ]
    return next((place for place in places if place.is_dir()), None)


def _places(folder: Path) -> Callable[[str], Path]:
    """Where a clip in a folder of sequences is; any of them tells for all 91,701 whether they are packed."""
    suffix = PACKED if next(folder.glob("*/[!.]*"), folder).suffix == PACKED else ""
    return lambda key: folder / f"{key}{suffix}"


def _septuplet(high: Callable[[str], Path], low: Callable[[str], Path] | None, key: str, subset: str = "") -> Clip:
    return Clip(key, high(key), subset, stop=7, ready={("bicubic",): low(key)} if low else {})


def _listed(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path} is missing: it comes with the data set ({EXPECTED['vimeo90k'].source})")
    return listed(path)


def _without_black(clips: Sequence[Clip]) -> list[Clip]:
    with ThreadPoolExecutor(16) as pool:  # it waits for a file system
        return [clip for clip, black in zip(clips, pool.map(_has_black, clips), strict=True) if not black]


def _has_black(clip: Clip) -> bool:
    """Whether two frames in a row are all black. Of two neighbours among im1 to im7, one has an even number."""
    if not clip.path.is_dir() and clip.path.suffix == PACKED:
        dark = packed.blank(clip.path)
        return any(here and then for here, then in pairwise(dark))
    frames = [clip.path / f"im{i}.png" for i in range(1, 8)]
    return any(_is_black(frames[i]) and (_is_black(frames[i - 1]) or _is_black(frames[i + 1])) for i in (1, 3, 5))


def _is_black(frame: Path) -> bool:
    try:
        if frame.stat().st_size > TINY:
            return False
        with Image.open(frame) as image:
            return not np.asarray(image).any()
    except OSError as error:
        raise UserError(f"{frame} cannot be read ({error}): the data set is not whole; unpack it again") from error


# --- Vid4 ---


def vid4(root: Path | str) -> Splits:
    """Vid4 as frame folders ``calendar``, ``city``, ``foliage``, ``walk``; there is nothing in it to train on.

    Args:
        root: the folder that holds them, by themselves or under ``GT/`` or ``original/``, possibly with the frames of
            each in a folder ``original`` of its own.
    """
    root = Path(root)
    names = ["calendar", "city", "foliage", "walk"]
    for base in (root, root / "GT", root / "original"):
        places = [clip_at(base / name / inner) for name in names for inner in ("", "original")]
        found = [place for place in places if place and (place.is_file() or _frames(place))]
        if len(found) == len(names):
            return Splits(test=[Clip(n, f.resolve(), stop=_extent(f)[0]) for n, f in zip(names, found, strict=True)])
    raise missing(f"Vid4 (folders {', '.join(names)})", root, EXPECTED["vid4"].source)


def _frames(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES)


# --- REDS ---


TRACKS: dict[str, tuple[str, ...]] = {  # of NTIRE 2019: folder, and what has happened to the frames in it
    "sharp_bicubic/X4": ("bicubic",),
    "blur_bicubic/X4": ("blur", "bicubic"),
    "blur": ("blur",),
    "blur_comp": ("blur", "compression"),
}
REDS4 = ("000", "011", "015", "020")  # EDVR, Section 4.1
REDS_TRAIN = 240  # clips; validation clips that were moved behind them have higher numbers


def reds(root: Path | str, split: str = "reds4", hold_back: int = 0) -> Splits:
    """REDS: ``train_sharp/000`` to ``239`` and ``val_sharp/000`` to ``029``, with what the tracks bring beside them.

    Frames of the tracks of NTIRE 2019 (``train_sharp_bicubic/X4``, ``train_blur``, ``train_blur_bicubic/X4``,
    ``train_blur_comp``, and the same of ``val``) are used where they are there and the degradation begins with what
    has happened to them; otherwise it is made on the fly. Validation clips that were moved behind the training clips
    (``train_sharp/240`` to ``269``, the published training code's way) are found there.

    Args:
        root: the folder that holds them, possibly in folders ``train`` and ``val``.
        split: ``reds4`` tests on training clips 000, 011, 015 and 020 and trains on the 266 others; ``official`` trains
            on the 240 training clips and tests on the 30 validation clips; ``all`` trains on all 270 (WDVR, Section
            4.2) and has nothing to test on.
        hold_back: training clips, evenly spread, that validate instead; the paper holds back none.

    Raises:
        UserError: it is not there, or has clips missing of those that test.
    """
    if split not in ("reds4", "official", "all"):
        raise UserError(f"data.layout.split is reds4, official or all, not {split}")
    root = Path(root)
    train, val = _reds_clips(root, "train"), _reds_clips(root, "val")
    if not train and not val:
        raise missing("REDS (folders train_sharp and val_sharp)", root, EXPECTED["reds"].source)
    moved = {f"{int(name) - REDS_TRAIN:03d}": clip for name, clip in train.items() if int(name) >= REDS_TRAIN}
    train = {name: clip for name, clip in train.items() if int(name) < REDS_TRAIN}
    val = {f"val_{name}": replace(clip, name=f"val_{name}") for name, clip in {**moved, **val}.items()}
    if split != "reds4" and not (train and val):
        raise UserError(
            f"{root} has no {'val_sharp' if train else 'train_sharp'}, which data.layout.split={split} needs"
        )
    if split == "official":
        pool, test = train, list(val.values())
    elif split == "all":
        pool, test = {**train, **val}, []
    else:
        if lacking := [name for name in REDS4 if train and name not in train]:
            raise UserError(f"{root} lacks {', '.join(lacking)} of the four clips of REDS4: unpack train_sharp again")
        test = [train[name] for name in REDS4 if name in train]
        pool = {name: clip for name, clip in {**train, **val}.items() if name not in REDS4}
    names = sorted(pool)
    held = {names[k * len(names) // hold_back] for k in range(hold_back)} if 0 < hold_back < len(names) else set()
    return Splits([pool[n] for n in names if n not in held], [pool[n] for n in names if n in held], test)


def _reds_clips(root: Path, part: str) -> dict[str, Clip]:
    """Clips of ``train`` or ``val`` by their numbers, with the folders of the tracks that are there."""
    base = next((place for place in (root, root / part) if (place / f"{part}_sharp").is_dir()), None)
    if base is None:
        return {}
    tracks = {done: base / f"{part}_{name}" for name, done in TRACKS.items() if (base / f"{part}_{name}").is_dir()}
    shown = {path.name.removesuffix(PACKED) for path in (base / f"{part}_sharp").iterdir()}
    clips = {name: clip_at(base / f"{part}_sharp" / name) for name in sorted(shown) if name.isdigit()}
    return {
        name: Clip(
            name,
            path.resolve(),
            ready={done: clip for done, track in tracks.items() if (clip := clip_at(track / name))},
        )
        for name, path in clips.items()
        if path
    }


# --- The built-in scenes ---


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
    """The built-in scenes, rendered at 240 fps and seen at 120; where they are missing they are rendered first.

    Args:
        root: where they are, or shall be.
        step: each ``step``-th frame is a source frame.
        train, validate, test, height, width, frames, fps, seed: of the scenes; see
            :func:`src.data.procedural.scenes.prepare`.

    Raises:
        UserError: ``root`` holds something else.
    """
    said = False

    def tell(line: str) -> None:
        nonlocal said
        if not said:
            print(f"The built-in scenes are rendered, once, into {root}: this takes minutes.", flush=True)
        said = True

    prepare(root, train, validate, test, height, width, frames, fps, seed, tell)
    return folder(root, step=step)


# --- What a whole data set looks like ---


def inspect(layout: Callable[..., Splits], root: Path | str, **options: Any) -> list[str]:
    """What is wrong with the data set at ``root``, a sentence each; nothing where it is whole.

    Args:
        layout: a function of this module or of :mod:`src.data.layouts.highspeed`, or a ``functools.partial`` of one.
        root: the data set.
        options: of the layout.
    """
    function = layout.func if isinstance(layout, partial) else layout
    if function is procedural and (unfinished := _unfinished(Path(root))):
        return [unfinished]  # looking must not render
    try:
        splits = layout(root, **options)
    except UserError as problem:
        return [str(problem)]
    expected = EXPECTED.get(getattr(function, "__name__", ""))
    return list(_complaints(expected, Path(root), splits)) if expected else []


def _unfinished(root: Path) -> str | None:
    """What the built-in scenes at ``root`` still lack."""
    try:
        counts = json.loads((root / "procedural.json").read_text())
        wanted = sum(int(counts[split]) for split in SPLITS)
    except (OSError, ValueError, KeyError, TypeError):
        return f"there are no built-in scenes at {root.absolute()}: `task=prepare data=procedural` renders them"
    there = len(list(root.glob("*/scene_*.mp4")))
    return f"{root}: {there} of {wanted} scenes are rendered; `task=prepare` goes on" if there < wanted else None


def _complaints(expected: Expected, root: Path, splits: Splits) -> Iterator[str]:
    clips = [*splits.train, *splits.validate, *splits.test]
    found = {"all": len(clips), "train": len(splits.train) + len(splits.validate), "test": len(splits.test)}
    for clip in splits.test:
        found[clip.subset] = found.get(clip.subset, 0) + 1
    counts = {} if any((root / name).exists() for name in expected.unless) else expected.counts
    for name, count in counts.items():
        if name.endswith(".txt"):
            there = len(_listed(_vimeo_base(root) / name))
        elif name in found:
            there = found[name]
        else:
            continue  # a subset whose list is not there, or was not asked for
        if there != count:
            yield f"{root}: {there} clips in {name}, {count} expected"
    absent = [clip for clip in clips if not clip.path.exists()]
    if absent:
        yield f"{root}: {len(absent)} of {len(clips)} listed clips are not there, {absent[0].path} the first"
    present = [clip for clip in clips if clip.path.is_dir() or (clip.path.suffix == PACKED and clip.path.is_file())]
    for clip in present[:: max(1, len(present) // 50)]:  # a sample of them: opening all takes an hour
        wanted = expected.frames.get(clip.name) if isinstance(expected.frames, dict) else expected.frames
        try:
            frames, size = _extent(clip.path)
        except UserError as problem:
            yield str(problem)
            continue
        if wanted is not None and frames != wanted:
            yield f"{clip.path}: {frames} frames, {wanted} expected"
        if frames and expected.size is not None and size != expected.size:
            yield f"{clip.path}: frames of {size[1]}x{size[0]}, {expected.size[::-1]} expected"


def _extent(clip: Path) -> tuple[int, tuple[int, int]]:
    """Frames of a folder or of a video, and the (height, width) of the first."""
    if clip.is_file():
        with open_video(clip) as reader:
            return len(reader), reader.size
    frames = _frames(clip)
    if not frames:
        return 0, (0, 0)
    with Image.open(clip / frames[0]) as image:
        return len(frames), (image.height, image.width)
