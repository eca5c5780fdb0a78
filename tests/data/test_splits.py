"""Splits with a common frame are refused, all others accepted."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.splits import Clip, Splits
from src.errors import UserError

WORDS = {"train": "training", "validate": "validation", "test": "test"}
FILES = [["x.mp4", "./x.mp4", "y/../x.mp4", str(Path("x.mp4").absolute())], ["y.mp4"]]  # equivalent paths of each
LENGTH = 30  # frames per file


@st.composite
def clips_of_file(draw: st.DrawFn) -> tuple[int, Clip]:
    """The index of a file, and a clip of it."""
    file = draw(st.integers(0, len(FILES) - 1))
    start = draw(st.integers(0, LENGTH - 1))
    stop = draw(st.none() | st.integers(start + 1, min(start + 8, LENGTH)))
    return file, Clip("", Path(draw(st.sampled_from(FILES[file]))), start=start, stop=stop)


def make_splits(clips: list[tuple[str, Clip]]) -> Splits:
    return Splits(**{split: [clip for name, clip in clips if name == split] for split in WORDS})


@given(st.lists(st.tuples(st.sampled_from([*WORDS]), clips_of_file()), min_size=2, max_size=5))
@settings(max_examples=200)
def test_exactly_the_overlapping_splits_are_refused(drawn: list[tuple[str, tuple[int, Clip]]]) -> None:
    clips = [(split, replace(clip, name=f"c{k}")) for k, (split, (_, clip)) in enumerate(drawn)]
    frames = {
        f"c{k}": {(file, i) for i in range(LENGTH)[clip.start : clip.stop]} for k, (_, (file, clip)) in enumerate(drawn)
    }
    belongs = {clip.name: split for split, clip in clips}
    pairs = [pair for pair in combinations(belongs, 2) if belongs[pair[0]] != belongs[pair[1]]]
    shared = [pair for pair in pairs if frames[pair[0]] & frames[pair[1]]]
    if not shared:
        make_splits(clips)
        return
    with pytest.raises(UserError) as caught:
        make_splits(clips)
    pattern = r"Frame (\d+) of .+ is in both the (\w+) data \(clip (\w+)\) and the (\w+) data \(clip (\w+)\)"
    found = re.match(pattern, str(caught.value))
    assert found
    frame, split, name, other_split, other = found.groups()
    assert tuple(sorted((name, other))) in shared
    assert (split, other_split) == (WORDS[belongs[name]], WORDS[belongs[other]])
    assert int(frame) in {i for _, i in frames[name] & frames[other]}


@given(st.sets(st.integers(0, 100), min_size=3, max_size=8), st.integers(1, 4), st.data())
@settings(max_examples=80)
def test_adjacent_ranges_are_accepted(cuts: set[int], step: int, data: st.DataObject) -> None:
    """Ranges begin right after another, the last has no end, and their order is random."""
    parts = [*pairwise(sorted(cuts)), (max(cuts), None)]
    shuffled = data.draw(st.permutations(parts))
    clips = [
        Clip(f"c{k}", Path("x.mp4"), start=start, stop=stop, step=step) for k, (start, stop) in enumerate(shuffled)
    ]
    splits = make_splits([(data.draw(st.sampled_from([*WORDS])), clip) for clip in clips])
    assert sorted(clip.name for part in WORDS for clip in getattr(splits, part)) == [clip.name for clip in clips]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (Clip("a", Path("x")), Clip("b", Path("x"), start=90)),
        (Clip("a", Path("x"), stop=10), Clip("b", Path("x"), start=9, stop=12)),
        (Clip("a", Path("x"), start=5, stop=6), Clip("b", Path("x"), stop=50)),
        (Clip("a", Path("x"), stop=10), Clip("b", Path("y/../x"))),
    ],
)
def test_overlapping_splits_are_refused(train: Clip, test: Clip) -> None:
    others = [Clip(f"other{i}", Path(f"z{i}")) for i in range(3)]
    with pytest.raises(UserError, match=r"both the (training|test) data \(clip .\) and the (test|training) data"):
        Splits(train=[*others, train], test=[test])
    with pytest.raises(UserError):
        Splits(validate=[train], test=[test])
    Splits(train=[train, test])  # ranges may overlap within a split


def test_disjoint_splits_are_accepted() -> None:
    a = [Clip(f"a{i}", Path("x"), start=i * 10, stop=i * 10 + 10) for i in range(6)]
    Splits(train=a[::3], validate=a[1::3], test=a[2::3])
    with pytest.raises(UserError, match="Two test clips are named same"):
        Splits(test=[Clip("same", Path("x")), Clip("same", Path("y"))])
