"""The layout of the built-in scenes renders them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from src.data.layouts.inspection import inspect
from src.data.layouts.procedural import procedural


def test_procedural_renders_missing_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = partial(procedural, train=2, validate=1, test=1, height=32, width=48, frames=17)
    root = tmp_path / "scenes"
    assert "No built-in scenes" in inspect(few, root)[0]
    assert not root.exists()  # inspection renders nothing
    splits = few(root)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert [len(part) for part in (splits.train, splits.validate, splits.test)] == [2, 1, 1]
    assert [clip.length() for clip in splits.train] == [9, 9]  # every second of 17
    splits.test[0].path.unlink()
    assert "3 of 4 scenes" in inspect(few, root)[0]
    assert few(root) == splits
    assert inspect(few, root) == []
    capsys.readouterr()
    few(root)
    assert capsys.readouterr().out == ""
