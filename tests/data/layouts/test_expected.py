"""A missing data set is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from src.data.layouts.adobe240 import adobe240
from src.data.layouts.dvd import dvd
from src.data.layouts.folder import folder
from src.data.layouts.gopro import gopro
from src.data.layouts.inspection import inspect
from src.data.layouts.sony import sony
from src.data.layouts.vid4 import vid4
from src.data.layouts.vimeo90k import vimeo90k
from src.data.splits import Splits
from src.errors import UserError


@pytest.mark.parametrize("layout", [vimeo90k, vid4, folder])
def test_a_missing_data_set_is_one_sentence(tmp_path: Path, layout: object) -> None:
    with pytest.raises(UserError) as caught:
        layout(tmp_path / "nowhere")  # type: ignore[operator]
    sentence = str(caught.value)
    assert str(tmp_path / "nowhere") in sentence
    assert "data=procedural size=mini" in sentence
    assert "\n" not in sentence
    assert layout is folder or "http" in sentence
    assert inspect(layout, tmp_path / "nowhere") == [sentence]  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", [adobe240, dvd, gopro, sony])
@pytest.mark.parametrize("there", ["nothing", "an empty folder", "empty splits"])
def test_a_missing_video_data_set_is_one_sentence(tmp_path: Path, layout: Callable[..., Splits], there: str) -> None:
    root = tmp_path / "somewhere"
    if there != "nothing":
        root.mkdir()
    if there == "empty splits":
        (root / "train").mkdir()
        (root / "test").mkdir()
    with pytest.raises(UserError) as caught:
        layout(root)
    sentence = str(caught.value)
    assert sentence.startswith("No ")
    assert f" in {root}. Download it from http" in sentence
    assert "set data.root=<folder>" in sentence
    assert "\n" not in sentence
    assert inspect(layout, root) == [sentence]
