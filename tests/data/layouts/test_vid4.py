"""Vid4 is found in its folder variants."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from src.data.layouts.inspection import inspect
from src.data.layouts.vid4 import FRAMES, vid4
from tests.data.layouts.copies import write_frames


def test_vid4(shared: Path) -> None:
    root = shared / "data" / "vid4"
    splits = vid4(root)
    assert {clip.name: clip.length() for clip in splits.test} == FRAMES
    assert not splits.train
    assert inspect(partial(vid4), root) == []


@pytest.mark.parametrize("inner", ["{}", "GT/{}", "original/{}", "{}/original"])
def test_vid4_folder_variants(tmp_path: Path, inner: str) -> None:
    for name in FRAMES:
        write_frames(tmp_path / inner.format(name), 3)
    splits = vid4(tmp_path)
    assert [clip.name for clip in splits.test] == ["calendar", "city", "foliage", "walk"]
    assert len(inspect(vid4, tmp_path)) == 4  # 3 frames each are too few
