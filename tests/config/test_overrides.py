"""Overrides before Hydra reads them: former names, quoted paths."""

from __future__ import annotations

import pytest

from src.config.composition import compose
from src.config.overrides import RENAMED, quote_paths, split_paths, translate


@pytest.mark.parametrize("prefix", ["", "+", "++", "~"])
@pytest.mark.parametrize("former", RENAMED)
def test_former_names_of_options_stay_valid(prefix, former):
    assert translate([f"{prefix}{former}=1"]) == [f"{prefix}{RENAMED[former]}=1"]


def test_a_former_name_sets_the_option():
    config = compose("size.interpolating=true", "++model.network.interpolating=false")
    assert (config.size.warm_start, config.model.network.warm_start) == (True, False)


def test_paths_are_quoted_once():
    assert quote_paths("checkpoint=runs/seed=0/last.ckpt") == "checkpoint='runs/seed=0/last.ckpt'"
    assert quote_paths("checkpoint='a.ckpt'") == "checkpoint='a.ckpt'"
    assert quote_paths("checkpoint=null") == "checkpoint=null"
    assert quote_paths("seed=3") == "seed=3"


def test_paths_in_lists_are_split_between_checkpoints():
    assert split_paths("[runs/a=1,b=2/last.ckpt,b.pth]") == ["runs/a=1,b=2/last.ckpt", "b.pth"]
    assert split_paths("[a.mp4, b.mp4]") == ["a.mp4", "b.mp4"]
    assert split_paths("a.mp4") == ["a.mp4"]
    assert split_paths("[edvr_m_redz,b.ckpt]") == ["edvr_m_redz", "b.ckpt"]


def test_texts_may_contain_anything():
    text = "Fine text, such as signs; it's [unsteady] in rain: a=b"
    config = compose("task=weights", f"limits={text}", "licence=CC-BY-4.0", "pack=runs/a,b=1/seed=0/last.ckpt")
    assert (config.limits, config.licence) == (text, "CC-BY-4.0")
    assert config.pack == "runs/a,b=1/seed=0/last.ckpt"
    assert compose("task=weights", "limits=null").limits is None
    for text in ("a\\", "a\\\\", "it\\'s\\n", "C:\\a\\"):
        assert compose("task=weights", f"limits={text}", f"pack={text}").limits == text
        assert compose("task=weights", f"pack={text}").pack == text


@pytest.mark.parametrize(("model", "paper"), [("vtsr", "vtsr"), ("edvr_m", "edvr"), ("edvr_l", "edvr")])
@pytest.mark.parametrize("choices", ["glob(*)", "glob(*e*)"])
def test_a_pattern_of_parts_belongs_to_the_paper_of_the_model(choices, model, paper):
    typed = [f"model/network/align={choices}", f"model={model}"]
    assert translate(typed, sweep=True) == [f"model/{paper}/align={choices}", f"model={model}"]
