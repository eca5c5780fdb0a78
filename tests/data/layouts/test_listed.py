"""Videos of a list: found by name at any depth, reduced one by one, their ends held back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate

from src.config.composition import compose
from src.data.credits import read_credits
from src.data.layouts.listed import ListedClip, listed
from src.errors import UserError
from tests.data.layouts.copies import write_frames

CLIPS = {
    "river": ListedClip(licence="CC0-1.0", source="https://example.org/river", reduce=2, start=10, stop=90),
    "tram": ListedClip(licence="MIT", source="https://example.org/tram"),
}


def test_clips_are_found_cut_and_reduced(tmp_path: Path) -> None:
    write_frames(tmp_path / "a" / "river", 100, size=(8, 12))
    write_frames(tmp_path / "tram", 20, size=(8, 12))
    write_frames(tmp_path / "other", 20)
    splits = listed(tmp_path, CLIPS)
    assert [clip.name for clip in splits.train] == ["river", "tram"]
    river = splits.train[0]
    assert (river.start, splits.test[0].stop) == (10, 90)
    assert river.source_size.reduced(8, 12, river.path) == (4, 6)
    assert listed(tmp_path, CLIPS, reduced=False).train[0].source_size.reduced(8, 12, river.path) == (8, 12)
    assert splits.train[1].length() == 20  # too short to hold anything back
    assert [clip.name for clip in splits.test] == ["river"]


def test_training_at_both_sizes_holds_back_the_same_frames(tmp_path: Path) -> None:
    write_frames(tmp_path / "river", 100, size=(8, 12))
    write_frames(tmp_path / "tram", 100, size=(8, 12))
    own, both = listed(tmp_path, CLIPS, reduced=False), listed(tmp_path, CLIPS, reduced="both")
    assert (both.validate, both.test) == (own.validate, own.test)
    *rest, small = both.train
    assert rest == list(own.train)
    assert (small.name, small.start, small.stop) == ("river/reduced", own.train[0].start, own.train[0].stop)
    assert small.source_size.reduced(8, 12, small.path) == (4, 6)
    terms = {name: {"licence": clip.licence} for name, clip in CLIPS.items()}
    assert read_credits(tmp_path, [small.name], terms)[small.name].licence == "CC0-1.0"


def test_missing_and_ambiguous_videos_are_named(tmp_path: Path) -> None:
    write_frames(tmp_path / "river", 100)
    with pytest.raises(UserError, match=r"1 of the 2 listed videos .* tram is https://example.org/tram"):
        listed(tmp_path, CLIPS)
    write_frames(tmp_path / "tram", 20)
    write_frames(tmp_path / "b" / "tram", 20)
    with pytest.raises(UserError, match="both tram of the list"):
        listed(tmp_path, CLIPS)


def test_every_clip_of_released_weights_has_a_licence_that_allows_it() -> None:
    layout = instantiate(compose("experiment=release_wdvr_real_x2").data.layout)
    free = ("CC0-1.0", "CC-BY-3.0", "Apache-2.0", "MIT", "BSD-2-Clause-Patent", "BSD-3-Clause")
    for name, clip in layout.keywords["clips"].items():
        assert clip.licence.startswith(free), name
        assert clip.source.startswith("https://github.com/"), name
        assert clip.credit or clip.licence.startswith("CC0"), name
