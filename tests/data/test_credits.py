"""The terms of clips: from a table in the data set's folder, by clip, file or folder."""

from __future__ import annotations

import pytest

from src.config.composition import compose, to_plain
from src.data.credits import Credit, read_credits
from src.errors import UserError


def test_terms_of_clips_files_and_folders(tmp_path):
    (tmp_path / "credits.yaml").write_text(
        "flower: {source: a.example, licence: CC0-1.0}\n"
        "bunny.mp4: {licence: CC-BY 3.0, credit: Blender Foundation}\n"
        "train/street: {licence: MIT, credit: Someone}\n"
        "take.1: {licence: BSD}\n"
    )
    terms = read_credits(tmp_path, ["flower", "bunny", "train/street/0001", "other", "take"])
    assert terms == {
        "flower": Credit("a.example", "CC0-1.0"),
        "bunny": Credit("", "CC-BY 3.0", "Blender Foundation"),
        "train/street/0001": Credit("", "MIT", "Someone"),
        "other": Credit("", "licence not stated"),
        "take": Credit("", "licence not stated"),
    }
    (tmp_path / "credits.yaml").write_text(".: {licence: MIT}\n")  # the folder of all clips
    assert read_credits(tmp_path, ["flower"])["flower"].licence == "MIT"


def test_terms_that_a_list_of_clips_states(tmp_path):
    listed = to_plain(compose("data=free_clips", f"data.root={tmp_path}").data.layout.clips)
    terms = read_credits(tmp_path, listed, listed)
    assert "CC0-1.0" in terms["mdn_flower"].licence
    assert all(credit.source and credit.licence != "licence not stated" for credit in terms.values())
    (tmp_path / "credits.yaml").write_text("mdn_flower.mp4: {licence: MIT}\n")
    assert read_credits(tmp_path, listed, listed)["mdn_toy_rabbit"] == terms["mdn_toy_rabbit"]


def test_without_a_table_no_licence_is_stated(tmp_path):
    assert read_credits(tmp_path, ["a"])["a"].licence == "licence not stated"


@pytest.mark.parametrize(
    "text", ["[]", "'': {licence: MIT}", "a: CC0", "a: {license: CC0}", "a: [", "5", "a: {licence: '${oc.env:HOME}'}"]
)
def test_another_form_is_refused(tmp_path, text):
    (tmp_path / "credits.yaml").write_text(text)
    if "${" in text:  # text, not an interpolation
        assert read_credits(tmp_path, ["a"])["a"].licence == "${oc.env:HOME}"
        return
    with pytest.raises(UserError, match=r"must map names of clips to source, licence and credit") as caught:
        read_credits(tmp_path, ["a"])
    assert "\n" not in str(caught.value)
