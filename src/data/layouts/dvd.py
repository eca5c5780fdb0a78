"""DVD: the videos of Adobe240, split as for VTSR."""

from __future__ import annotations

from pathlib import Path

from src.data.layouts.adobe240 import SOURCE, find_su_videos
from src.data.layouts.expected import Expected, require_interpolated
from src.data.layouts.video_splits import choose_share, split_by_folders, split_by_lists, split_folders
from src.data.splits import Splits, spread_evenly
from src.errors import UserError

EXPECTED = Expected(
    content="DVD (folder original_high_fps_videos of Su et al.)",
    source=SOURCE,
    counts={"all": 68},  # those that the thesis uses, of 133
    custom_splits=("train_list.txt", "test_list.txt", "train", "test"),
)


def dvd(
    root: Path | str,
    videos: int | None = 68,
    test: float = 0.18,
    hold_back: int = 6,
    step: int = 1,
    interpolated: int = 0,
) -> Splits:
    """Return the videos of :func:`~src.data.layouts.adobe240.adobe240`, split as in the VTSR thesis.

    The thesis (Section 4.1.1) excludes videos with strong artefacts and splits the remaining 68 at random, 56 to train
    and 12 to test, without a list. Here as many are used, evenly spread over the names, and the same number tests,
    unless there are list files, which may name any of the 133. The authors of the data set have a test set of ten
    videos (named in issue 2 of shuochsu/DeepVideoDeblurring); list them in ``test_list.txt`` to use it.

    Args:
        root: the folder of ``original_high_fps_videos``, of the videos, or of ``train`` and ``test``.
        videos: number of videos used if there is no list; None: all.
        test: share of the videos that test if there is no ``test_list.txt`` (12 of 68).
        hold_back: number of training videos, evenly spread, used for validation (a tenth, Section 4.1.3).
        step: every ``step``-th frame of a file is a source frame.
        interpolated: number of frames interpolated after each frame and averaged with it when ``root`` was packed; 0:
            frames are taken as they are.

    Raises:
        UserError: the data set is missing, or was packed with other interpolated frames.
    """
    root = Path(root)
    require_interpolated(root, interpolated, "dvd")
    if split_folders(root):
        return split_by_folders(root, EXPECTED, hold_back=hold_back, step=step)
    clips = find_su_videos(root, EXPECTED, step=step)
    if videos is not None and not any((root / name).is_file() for name in ("train_list.txt", "test_list.txt")):
        if videos < 1:
            raise UserError(f"data.layout.videos must be 1 or more videos, got {videos}: null uses all")
        clips = [clips[i] for i in spread_evenly(min(videos, len(clips)), len(clips))]
    return split_by_lists(root, clips, test=choose_share(root, clips, test), hold_back=hold_back)
