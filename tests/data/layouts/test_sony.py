"""Sony is split by folders or by an even share."""

from __future__ import annotations

import shutil
from pathlib import Path

from src.data.layouts.inspection import inspect
from src.data.layouts.sony import sony
from tests.data.layouts.copies import all_clips, names_of


def test_sony_with_and_without_split_folders(tmp_path: Path, video: Path) -> None:
    for part, count in {"train": 46, "test": 17}.items():
        for i in range(count):
            (tmp_path / "split" / part).mkdir(parents=True, exist_ok=True)
            (tmp_path / "flat").mkdir(exist_ok=True)
            for folder in (tmp_path / "split" / part, tmp_path / "flat"):
                shutil.copy(video, folder / f"{part}{i:02d}.mp4")
    for root in (tmp_path / "split", tmp_path / "flat"):
        splits = sony(root)
        assert [len(part) for part in (splits.train, splits.validate, splits.test)] == [41, 5, 17]
        assert len(all_clips(splits)) == 63
        assert inspect(sony, root) == []
    assert names_of(sony(tmp_path / "split").test) == [f"test{i:02d}" for i in range(17)]
    next((tmp_path / "flat").iterdir()).unlink()
    assert inspect(sony, tmp_path / "flat") == [f"{tmp_path / 'flat'}: 62 clips in all, 63 expected"]
