"""GoPro: ``GOPRO_Large_all/train`` and ``test``, 22 and 11 folders of frames of 240 fps and 1280x720 pixels."""

from __future__ import annotations

from pathlib import Path

from src.data.layouts.expected import Expected, require_interpolated
from src.data.layouts.video_splits import split_by_folders, split_folders
from src.data.splits import Splits
from src.errors import UserError

EXPECTED = Expected(
    content="GoPro (frame folders in GOPRO_Large_all/train and test)",
    source="https://seungjunnah.github.io/Datasets/gopro.html",
    counts={"train": 22, "test": 11},
    size=(720, 1280),
)


def gopro(root: Path | str, hold_back: int = 2, step: int = 1, interpolated: int = 0) -> Splits:
    """Return the clips of GOPRO_Large_all.

    Nah et al., "Deep Multi-scale Convolutional Neural Network for Dynamic Scene Deblurring", CVPR 2017. ``GOPRO_Large``
    without ``_all`` is refused: it holds only the sharp frame in the middle of each blurred one.

    Args:
        root: ``GOPRO_Large_all``, or its parent folder.
        hold_back: number of training clips, evenly spread, used for validation (a tenth: VTSR thesis, Section 4.1.3).
        step: every ``step``-th frame is a source frame.
        interpolated: number of frames interpolated after each frame and averaged with it when ``root`` was packed; 0:
            frames are taken as they are.

    Raises:
        UserError: the data set is missing, is ``GOPRO_Large``, or was packed with other interpolated frames.
    """
    root = Path(root)
    require_interpolated(root, interpolated, "gopro")
    base = next((folder for folder in (root, root / "GOPRO_Large_all") if split_folders(folder)), root)
    if any(next(part.glob("*/sharp"), None) for part in split_folders(base)):
        raise UserError(
            f"{base} is GOPRO_Large; its sharp frames have gaps in time. Download GOPRO_Large_all from "
            f"{EXPECTED.source} and set data.root=<folder>"
        )
    return split_by_folders(base, EXPECTED, hold_back=hold_back, step=step)
