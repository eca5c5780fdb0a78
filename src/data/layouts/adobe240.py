"""Adobe240: 133 videos of 240 fps, split as for DSFN."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from src.data.layouts.expected import Expected
from src.data.layouts.video_splits import find_clips, split_by_folders, split_by_lists, split_folders
from src.data.splits import Clip, Splits
from src.errors import UserError

SOURCE = (
    "https://www.cs.ubc.ca/labs/imager/tr/2017/DeepVideoDeblurring/ "
    "(DeepVideoDeblurring_Dataset_Original_High_FPS_Videos.zip)"
)
EXPECTED = Expected(
    content="Adobe240 (folder original_high_fps_videos of Su et al.)",
    source=SOURCE,
    counts={"all": 133, "test": 8},
    custom_splits=("train_list.txt", "test_list.txt", "train", "test"),
)
TEST_VIDEOS = (  # of BIN's published test set, the same as in Super SloMo's list
    "720p_240fps_1",
    "GOPR9635",
    "GOPR9637a",
    "IMG_0004a",
    "IMG_0015",
    "IMG_0023",
    "IMG_0179",
    "IMG_0183",
)


def adobe240(root: Path | str, hold_back: int = 4, step: int = 1) -> Splits:
    """Return the videos of ``original_high_fps_videos``, split as DSFN trains and tests on them.

    The videos belong to Su et al., "Deep Video Deblurring for Hand-held Cameras", CVPR 2017. DSFN (Section 4.1) makes
    its data as BIN does (Shen et al., CVPR 2020) and publishes no list, so BIN's eight videos are the test set and all
    others train. Lists of 112 training videos and the same 8 come with an implementation of Super SloMo
    (``data/adobe240fps`` of avinashpaliwal/Super-SloMo); put them into ``root`` to use them.

    DSFN's frames have 640x352 pixels, the files 720 lines: ``data.source_size`` reduces them. BIN's script writes
    frames of that size into folders ``train`` and ``test``, which may also be the content of ``root``.

    Args:
        root: the folder of ``original_high_fps_videos``, of the videos, or of ``train`` and ``test``.
        hold_back: number of training videos, evenly spread over their names, used for validation. Our own choice.
        step: every ``step``-th frame of a file is a source frame (4 makes 60 fps of 240).

    Raises:
        UserError: the data set or a test video is missing.
    """
    root = Path(root)
    if split_folders(root):
        return split_by_folders(root, EXPECTED, hold_back=hold_back, step=step)
    clips = find_su_videos(root, EXPECTED, step=step)
    if (root / "test_list.txt").is_file():
        return split_by_lists(root, clips, test=(), hold_back=hold_back)
    names = {clip.name for clip in clips}
    if lacking := [name for name in TEST_VIDEOS if name not in names]:
        raise UserError(
            f"{root} lacks {', '.join(lacking)} of the {len(TEST_VIDEOS)} test videos of Adobe240: unpack it again, or "
            f"list test videos in {root / 'test_list.txt'}; for your own videos use data=folder"
        )
    return split_by_lists(root, clips, test=TEST_VIDEOS, hold_back=hold_back)


def find_su_videos(root: Path, expected: Expected, *, step: int) -> list[Clip]:
    """Return the videos of Su et al., named by their files without suffix.

    Raises:
        UserError: there are none, or two share a name.
    """
    base = root / "original_high_fps_videos"
    clips: dict[str, Clip] = {}
    for clip in find_clips(base if base.is_dir() else root, expected, step=step):
        stem = clip.path.name if clip.path.is_dir() else clip.path.stem
        if stem in clips:  # frames unpacked beside the videos
            raise UserError(f"{clips[stem].path} and {clip.path} share a name: keep one of them in {root}")
        clips[stem] = replace(clip, name=stem)
    return [clips[stem] for stem in sorted(clips)]
