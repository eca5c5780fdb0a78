"""DVD tests on an even share of whole videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from src.data.layouts.dvd import dvd
from src.data.layouts.inspection import inspect
from src.errors import UserError
from tests.data.layouts.copies import all_clips, names_of


def test_dvd_tests_on_an_even_share(su: Path) -> None:
    splits = dvd(su)
    assert [len(part) for part in (splits.train, splits.validate, splits.test)] == [50, 6, 12]
    assert len(all_clips(splits)) == 68
    assert dvd(su) == splits
    numbers = [i for i, name in enumerate(sorted(names_of(all_clips(splits)))) if name in names_of(splits.test)]
    assert set(np.diff(numbers)) <= {5, 6}  # evenly spread
    assert inspect(dvd, su) == []
    assert len(all_clips(dvd(su, videos=None))) == 133
    assert not dvd(su, test=0).test
    with pytest.raises(UserError, match=r"data\.layout\.videos"):
        dvd(su, videos=0)
    with pytest.raises(UserError, match=r"data\.layout\.test"):
        dvd(su, test=12)


def test_the_share_excludes_videos_of_the_training_list(su: Path) -> None:
    (su / "train_list.txt").write_text("".join(f"IMG_{1000 + k}\n" for k in range(60)))
    splits = dvd(su)
    assert len(splits.train) + len(splits.validate) == 60
    assert len(splits.test) == round(133 * 0.18)
    assert len(all_clips(splits)) == 60 + len(splits.test)
