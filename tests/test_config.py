"""Every configuration composes and instantiates; what does not fit is told in one sentence."""

from __future__ import annotations

import re

import pytest
import torch
from hydra.utils import instantiate

from src.config import (
    CONF,
    build_data,
    build_network,
    build_restorer,
    compose,
    depth,
    described,
    plain,
    run_name,
    width,
)
from src.errors import Problem
from src.nn.blocks import count_parameters

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
MODELS = sorted({path.stem for path in (CONF / "model").glob("[!_]*.yaml")} - {"cascade"})  # of trained networks
DATA = sorted(path.stem for path in (CONF / "data").glob("[!_]*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("size", ["full", "mini"])
def test_every_experiment_instantiates(experiment, size):
    config = compose(f"experiment={experiment}", f"size={size}", "logger=csv", "checkpoint=null")
    if "stages" in config.model.network and not config.model.network.stages:  # whatever somebody has trained
        config.model.network.stages = [{"_target_": "src.papers.baselines.Blend"}]
    network = build_network(config)
    restorer = build_restorer(config, network)
    data = build_data(config, restorer)
    assert restorer.network is network
    assert data.geometry == restorer.geometries[-1]
    assert restorer.geometries[0] == network.geometry
    assert data.degradation.scale == network.geometry.scale
    if restorer.optimizer:
        assert restorer.optimizer(network.parameters()).defaults["lr"] > 0
    assert plain(config.trainer)["max_steps"] > 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", ["full", "mini"])
def test_every_model_restores(model, size):
    config = compose(f"model={model}", f"size={size}")
    network = build_network(config)
    geometry = network.geometry
    if size == "full" and count_parameters(network):
        return  # instantiated; its numbers are checked in tests/papers
    out = network(torch.rand(1, geometry.window, 3, 8, 12))
    assert out.shape == (1, len(geometry.times), 3, 8 * geometry.scale, 12 * geometry.scale)


@pytest.mark.parametrize("interpolate", ["naive", "deformable"])
@pytest.mark.parametrize("aggregate", ["none", "convlstm", "deformable_convlstm", "bidirectional"])
@pytest.mark.parametrize("guide", ["none", "synthesis"])
def test_the_parts_of_table_5_are_groups(interpolate, aggregate, guide):
    config = compose(
        "size=mini",
        f"model/network/interpolate={interpolate}",
        f"model/network/aggregate={aggregate}",
        f"model/network/guide={guide}",
    )
    network = build_network(config)
    assert (network.guide is None) == (guide == "none")
    assert network(torch.rand(1, 2, 3, 4, 4)).shape == (1, 3, 3, 16, 16)


@pytest.mark.parametrize("data", DATA)
def test_every_data_set_instantiates(data):
    extra = ["data.root=somewhere"] if data == "folder" else []
    config = compose(f"data={data}", *extra)
    blend = compose("model=blend")
    assert build_data(config, build_restorer(blend, build_network(blend))).batch_size > 0


@pytest.mark.parametrize("group", ["protocol", "degradation"])
def test_every_choice_instantiates(group):
    for path in (CONF / group).glob("[!_]*.yaml"):
        node = compose(f"{group}={path.stem}")[group]
        made = instantiate(node)
        assert str(made)


def test_benchmarks_bring_their_protocol():
    assert compose("data=vid4").protocol.channel == "y"
    assert compose("data=vid4", "protocol=vid4_wdvr").protocol.crop == 4
    assert compose("experiment=zsm_vimeo", "data=vid4").protocol.name == "vid4"
    assert compose("experiment=zsm_vimeo").protocol.name == "vimeo90k"


def test_baselines_stand_in_for_the_model_of_an_experiment():
    for experiment in EXPERIMENTS:
        assert compose(f"experiment={experiment}", "model=blend").model.network._target_.endswith("Blend")


def test_sizes():
    full, mini = compose("model=zsm"), compose("model=zsm", "size=mini")
    assert plain(full.model.network)["reconstruct"]["blocks"] == 40
    assert plain(full.model.network)["aggregate"]["recurrence"]["channels"] == 64
    assert plain(mini.model.network)["aggregate"]["recurrence"]["channels"] == width(64, _root_=mini) < 64
    assert depth(1, _root_=mini) == 1


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("modle=zsm", r"no option 'modle'.*Did you mean model\?"),
        ("trainer.max_step=3", r"no option 'trainer\.max_step': trainer has .*Did you mean trainer\.max_steps\?"),
        ("model.network.encod.blocks=3", r"model\.network has .*Did you mean model\.network\.encode\?"),
        ("model=zms", r"no model=zms: choose one of .*Did you mean model=zsm\?"),
        ("experiment=zsm_vime", r"Did you mean experiment=zsm_vimeo"),
        ("data=vid5", r"no data=vid5.*Did you mean data=vid4\?"),
    ],
)
def test_mistyped_options_are_named_with_their_neighbours(override, sentence):
    with pytest.raises(Problem, match=sentence) as caught:
        compose(override)
    assert "\n" not in str(caught.value)


def test_run_names():
    choices = compose().copy()
    choices = type(choices)({"experiment": "zsm_vimeo", "task": "train"})
    assert run_name(choices, ["experiment=zsm_vimeo", "seed=3", "resume=true"]) == "zsm_vimeo"
    named = run_name(choices, ["size=mini", "data=folder", "data.root=/some/where/clips", "paths.runs=/x"])
    assert re.fullmatch(r"zsm_vimeo/data=folder,data\.root=clips-\w{6},size=mini", named)
    other = run_name(choices, ["size=mini", "data=folder", "data.root=/else/where/clips"])
    assert other != named  # two folders of one name are two runs
    long = run_name(choices, [f"model.option{i}={i}" for i in range(40)])
    assert len(long.split("/")[1]) <= 180
    choices = type(choices)({"experiment": None, "task": "evaluate"})
    assert run_name(choices, ["task=evaluate", "model=bicubic"]) == "evaluate/model=bicubic"


@pytest.mark.parametrize(
    "path", ["runs/a=1,b=2/seed=0/last.ckpt", "it's here.mp4", "a b (c).mp4", "{x}.png", "C:\\v.mp4"]
)
def test_paths_are_taken_as_they_are(path):
    assert compose(f"checkpoint={path}").checkpoint == path


def test_contradictions_are_refused_before_any_data_is_read():
    config = compose("model=zsm", "size=mini", "degradation=bicubic_x2", "data=vid4", "data.root=nowhere")
    with pytest.raises(Problem, match="enlarges 4 times"):
        build_data(config, build_restorer(config, build_network(config)))


def test_a_protocol_that_a_network_cannot_follow_is_one_sentence():
    config = compose("model=edvr_m", "size=mini", "protocol=vid4_zsm_3")
    with pytest.raises(Problem, match="does not suit this network: a network of window 5"):
        build_restorer(config, build_network(config))
    assert compose("protocol=reds4", "protocol.ensemble=4").protocol.ensemble == 4


def test_an_option_that_an_experiment_needs_is_asked_for():
    with pytest.raises(Exception, match="checkpoint is needed here"):
        _ = compose("experiment=wdvr_reds_finetune").checkpoint
    assert compose("experiment=wdvr_reds_finetune", "checkpoint=a.ckpt").checkpoint == "a.ckpt"


def test_a_list_of_checkpoints_whose_paths_are_like_those_of_runs():
    files = ["runs/a/data=folder,size=mini/seed=0/last.ckpt", "other runs/b.pth"]
    for given in (f"[{','.join(files)}]", "['" + "','".join(files) + "']"):
        config = compose("model=cascade", f"model.network.stages={given}")
        assert list(config.model.network.stages) == files
    one, two = (described([f"model.network.stages=[{file}]"]) for file in files)
    assert one.startswith("model.network.stages=last.ckpt-")
    assert two.startswith("model.network.stages=b.pth-")
