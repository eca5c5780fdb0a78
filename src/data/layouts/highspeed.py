"""Where data sets of high-speed videos keep their frames, and their splits: Adobe240, DVD, GoPro and Sony.

They are layouts like those of :mod:`src.data.layouts`: ``layout(root, **options) -> Splits``. Whole videos are split,
never stretches of one. Folders ``train`` and ``test`` in ``root``, of videos or of frame folders, are the splits where
they are there. Otherwise two list files in ``root`` decide, one name a line (its suffix may be left out):
``test_list.txt`` says what is tested on, ``train_list.txt`` what is trained on (all that is not tested on, where it is
missing). Where there are neither, each layout says what it does. Frames are used at the size in which they are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from src.data.layouts.folder import folder
from src.data.layouts.published import EXPECTED
from src.data.splits import Clip, Splits, listed, missing
from src.errors import UserError
from src.video.discovery import find_videos

ADOBE240_TEST = (  # of BIN's published test set, the same as in Super SloMo's list
    "720p_240fps_1",
    "GOPR9635",
    "GOPR9637a",
    "IMG_0004a",
    "IMG_0015",
    "IMG_0023",
    "IMG_0179",
    "IMG_0183",
)
SU_FOLDER = "the folder original_high_fps_videos of Su et al."


def adobe240(root: Path | str, hold_back: int = 4, step: int = 1) -> Splits:
    """Adobe240: the 133 videos of 240 fps in ``original_high_fps_videos``, as DSFN trains and tests on them.

    The videos belong to Su et al., "Deep Video Deblurring for Hand-held Cameras", CVPR 2017. DSFN (Section 4.1) makes
    its data as BIN does (Shen et al., CVPR 2020) and gives no list of its own, so BIN's eight videos test and all
    others train. Lists of 112 to train on and the same 8 come with an implementation of Super SloMo
    (``data/adobe240fps`` of avinashpaliwal/Super-SloMo) and serve here when put into ``root``.

    DSFN's frames have 640x352 pixels, the files 720 lines: nothing is resized here. BIN's script writes frames of that
    size into folders ``train`` and ``test``; ``root`` may be what holds these.

    Args:
        root: the folder that holds ``original_high_fps_videos``, or the videos, or ``train`` and ``test``.
        hold_back: training videos, evenly spread over their names, that validate instead. Our own choice.
        step: each ``step``-th frame of a file is a source frame (4 makes 60 fps of 240).

    Raises:
        UserError: it is not there, or videos that test are missing.
    """
    root = Path(root)
    if _parts(root):
        return _in_folders("adobe240", SU_FOLDER, root, hold_back, step)
    clips = _su_videos("adobe240", root, step)
    if (root / "test_list.txt").is_file():
        return _listed(root, clips, (), hold_back)
    names = {clip.name for clip in clips}
    if lacking := [name for name in ADOBE240_TEST if name not in names]:
        raise UserError(
            f"{root} lacks {', '.join(lacking)} of the {len(ADOBE240_TEST)} videos that Adobe240 is tested on: unpack "
            f"it again, or name others in {root / 'test_list.txt'}; videos of your own are data=folder"
        )
    return _listed(root, clips, ADOBE240_TEST, hold_back)


def dvd(root: Path | str, test: float = 0.18, hold_back: int = 11, step: int = 1) -> Splits:
    """DVD: the videos of :func:`adobe240`, as the VTSR thesis trains and tests on them.

    The thesis (Section 4.1.1) leaves out videos with strong artefacts and splits the 68 that it keeps at random, 56 to
    train and 12 to test; it does not say which. Here all are used and the same share tests, evenly spread over their
    names, unless the lists say otherwise. The data set's authors have a test set of ten videos (named in issue 2 of
    shuochsu/DeepVideoDeblurring), which ``test_list.txt`` can ask for.

    Args:
        root: the folder that holds ``original_high_fps_videos``, or the videos, or ``train`` and ``test``.
        test: share of the videos that test where no ``test_list.txt`` says which (12 of 68).
        hold_back: training videos, evenly spread, that validate instead (a tenth, Section 4.1.3).
        step: each ``step``-th frame of a file is a source frame.

    Raises:
        UserError: it is not there.
    """
    root = Path(root)
    if _parts(root):
        return _in_folders("dvd", SU_FOLDER, root, hold_back, step)
    clips = _su_videos("dvd", root, step)
    return _listed(root, clips, _share(root, clips, test), hold_back)


def gopro(root: Path | str, hold_back: int = 2, step: int = 1) -> Splits:
    """GoPro: ``GOPRO_Large_all/train`` and ``test``, 22 and 11 folders of frames of 240 fps and 1280x720 pixels.

    Nah et al., "Deep Multi-scale Convolutional Neural Network for Dynamic Scene Deblurring", CVPR 2017. ``GOPRO_Large``
    without ``_all`` does not serve: of the sharp frames it has only those in the middle of a blurred one.

    Args:
        root: ``GOPRO_Large_all``, or the folder that holds it.
        hold_back: training clips, evenly spread, that validate instead (a tenth: VTSR thesis, Section 4.1.3).
        step: each ``step``-th frame is a source frame.

    Raises:
        UserError: it is not there, or it is ``GOPRO_Large``.
    """
    root = Path(root)
    base = next((place for place in (root, root / "GOPRO_Large_all") if _parts(place)), root)
    if any(next(part.glob("*/sharp"), None) for part in _parts(base)):
        raise UserError(
            f"{base} is GOPRO_Large, whose sharp frames have gaps in time: get GOPRO_Large_all from "
            f"{EXPECTED['gopro'].source} and set data.root to it"
        )
    return _in_folders("gopro", "GoPro (frame folders in GOPRO_Large_all/train and test)", base, hold_back, step)


def sony(root: Path | str, test: float = 0.27, hold_back: int = 5, step: int = 1) -> Splits:
    """Sony: videos of 250 fps, 46 to train and 17 to test (VTSR thesis, Section 4.1.1).

    Jin et al., "Learning to Extract Flawless Slow Motion from Blurry Videos", CVPR 2019. No description was found of
    how the archive is laid out, nor of which videos test: without folders ``train`` and ``test`` and without lists, the
    thesis' share of all that is there tests, evenly spread over the names. The videos have 1080 lines, which the
    thesis reduces to 720 (Section 4.1.2); nothing is resized here.

    Args:
        root: the folder that holds them.
        test: share of the videos that test where neither folders nor ``test_list.txt`` say which (17 of 63).
        hold_back: training videos, evenly spread, that validate instead (a tenth, Section 4.1.3).
        step: each ``step``-th frame is a source frame.

    Raises:
        UserError: it is not there.
    """
    root = Path(root)
    what = "Sony slow motion (videos or frame folders, possibly in train and test)"
    if _parts(root):
        return _in_folders("sony", what, root, hold_back, step)
    clips = _clips("sony", what, root, step)
    return _listed(root, clips, _share(root, clips, test), hold_back)


# --- What they share ---


def _parts(root: Path) -> list[Path]:
    return [root / split for split in ("train", "test") if (root / split).is_dir()]


def _in_folders(name: str, what: str, root: Path, hold_back: int, step: int) -> Splits:
    """The splits that the folders ``train`` and ``test`` are."""
    if not any(find_videos(part) for part in _parts(root)):
        raise missing(what, root, EXPECTED[name].source)
    splits = folder(root, step=step)
    return splits if splits.validate else _hold_back(splits.train, splits.test, hold_back)


def _clips(name: str, what: str, root: Path, step: int) -> list[Clip]:
    if not find_videos(root):
        raise missing(what, root, EXPECTED[name].source)
    return list(folder(root, hold_back=0, step=step).train)


def _su_videos(name: str, root: Path, step: int) -> list[Clip]:
    """The videos of Su et al., called by their names without suffix."""
    base = root / "original_high_fps_videos"
    found = _clips(name, SU_FOLDER, base if base.is_dir() else root, step)
    clips: dict[str, Clip] = {}
    for clip in found:
        stem = clip.path.name if clip.path.is_dir() else clip.path.stem
        if stem in clips:  # frames that were unpacked beside the videos
            raise UserError(f"{clips[stem].path} and {clip.path} have one name: keep one of them in {root}")
        clips[stem] = replace(clip, name=stem)
    return [clips[stem] for stem in sorted(clips)]


def _listed(root: Path, clips: Sequence[Clip], test: Sequence[str], hold_back: int) -> Splits:
    """Splits as the list files in ``root`` say; without ``test_list.txt``, ``test`` names the clips that test."""
    known = {clip.name: clip for clip in clips}
    tested = _read(root / "test_list.txt", known) or list(test)
    trained = _read(root / "train_list.txt", known) or [name for name in known if name not in tested]
    return _hold_back([known[name] for name in trained], [known[name] for name in tested], hold_back)


def _read(path: Path, known: dict[str, Clip]) -> list[str]:
    """The clips that a list file names, without repetition; nothing where there is no such file."""
    if not path.is_file():
        return []
    names = []
    for line in listed(path):
        name = line if line in known else Path(line).with_suffix("").as_posix()
        if name not in known:
            raise UserError(f"{path} names {line}, which is not among the {len(known)} videos beside it")
        names.append(name)
    if not names:
        raise UserError(f"{path} is empty: name a video a line, or remove it")
    return list(dict.fromkeys(names))


def _share(root: Path, clips: Sequence[Clip], share: float) -> list[str]:
    """A share of the clips, evenly spread over the names of those that ``train_list.txt`` leaves."""
    if not 0 <= share < 1:
        raise UserError(f"data.layout.test is the share of the videos that test, within [0, 1), not {share}")
    trained = _read(root / "train_list.txt", {clip.name: clip for clip in clips})
    names = [clip.name for clip in clips if clip.name not in trained]
    count = min(len(names) - (not trained), max(1, round(len(clips) * share))) if share else 0
    return [names[i] for i in _spread(count, len(names))]


def _hold_back(train: Sequence[Clip], test: Sequence[Clip], hold_back: int) -> Splits:
    """``hold_back`` of the clips to train on validate instead, evenly spread."""
    if train and not 0 <= hold_back < len(train):
        raise UserError(
            f"data.layout.hold_back={hold_back} of {len(train)} training videos cannot validate: leave one to train on"
        )
    held = set(_spread(hold_back if train else 0, len(train)))
    rest = [clip for i, clip in enumerate(train) if i not in held]
    return Splits(rest, [clip for i, clip in enumerate(train) if i in held], test)


def _spread(count: int, among: int) -> list[int]:
    """``count`` places of ``among``, evenly spread and none twice."""
    return [(2 * k + 1) * among // (2 * count) for k in range(count)]
