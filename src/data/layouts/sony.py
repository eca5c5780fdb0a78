"""Sony: videos of 250 fps, 46 to train on and 17 to test on (VTSR thesis, Section 4.1.1)."""

from __future__ import annotations

from pathlib import Path

from src.data.layouts.expected import Expected
from src.data.layouts.video_splits import choose_share, find_clips, split_by_folders, split_by_lists, split_folders
from src.data.splits import Splits

EXPECTED = Expected(
    content="Sony slow motion (videos or frame folders, possibly in train and test)",
    source="https://github.com/MeiguangJin/slow-motion",
    counts={"all": 63},  # VTSR thesis, section 4.1.1
    custom_splits=("train_list.txt", "test_list.txt"),
)


def sony(root: Path | str, test: float = 0.27, hold_back: int = 5, step: int = 1) -> Splits:
    """Return the videos of the Sony data set.

    Jin et al., "Learning to Extract Flawless Slow Motion from Blurry Videos", CVPR 2019. Neither the folders of the
    archive nor a list of its test videos are published. Without folders ``train`` and ``test`` and without list files,
    the thesis' share of all videos tests, evenly spread over the names. The videos have 1080 lines, reduced to 720 in
    the thesis (Section 4.1.2), by ``data.source_size`` of ``data=sony``; this function resizes nothing.

    Args:
        root: the folder of the videos.
        test: share of the videos that test if there are neither folders nor a ``test_list.txt`` (17 of 63).
        hold_back: number of training videos, evenly spread, used for validation (a tenth, Section 4.1.3).
        step: every ``step``-th frame is a source frame.

    Raises:
        UserError: the data set is missing.
    """
    root = Path(root)
    if split_folders(root):
        return split_by_folders(root, EXPECTED, hold_back=hold_back, step=step)
    clips = find_clips(root, EXPECTED, step=step)
    return split_by_lists(root, clips, test=choose_share(root, clips, test), hold_back=hold_back)
