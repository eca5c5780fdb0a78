"""The recipe of an experiment does not depend on the data set that its frames come from."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from src.config.build import build_data, build_restorer, build_training_network
from src.config.composition import CONF, compose
from src.config.overrides import by_place, translate
from src.config.run_names import name_overrides
from src.data.augment import Augmentation, Jitter
from src.errors import UserError

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
RECIPE = sorted(key for key in OmegaConf.load(CONF / "recipe" / "common.yaml") if key != "defaults")


@pytest.mark.long
@pytest.mark.parametrize("size", ["full", "mini"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_frames_from_a_folder_change_no_recipe(experiment, size):
    own, other = (
        compose(f"experiment={experiment}", f"size={size}", *elsewhere)
        for elsewhere in ([], ["data=folder", "data.root=x"])
    )
    assert {key: own.data[key] for key in RECIPE} == {key: other.data[key] for key in RECIPE}
    assert own.degradation == other.degradation
    assert own.trainer == other.trainer


def test_data_sets_state_no_recipe():
    for file in sorted((CONF / "data").glob("*.yaml")):
        assert not set(RECIPE) & set(OmegaConf.load(file)), file


@pytest.mark.parametrize(
    ("recipe", "crop", "batch_size", "resize"),
    [
        ("edvr", 256, 32, None),
        ("zsm", 128, 24, None),
        ("wdvr", 256, 32, None),
        ("wdvr3d", 256, 4, None),
        ("vtsr", 224, 8, [512, 512]),
        ("dsfn", 256, 24, None),
    ],
)
def test_a_recipe_is_chosen_beside_any_data_set(recipe, crop, batch_size, resize):
    data = compose("data=folder", "data.root=x", f"recipe={recipe}").data
    assert (data.crop, data.batch_size, data.resize) == (crop, batch_size, resize)


@pytest.mark.parametrize(
    ("experiment", "full"),
    [("edvr_vimeo", 0.999), ("wdvr2d_reds", 0), ("zsm_vimeo", 0), ("dsfn_adobe240", 0), ("vtsr_gopro", 0)],
)
def test_weights_are_averaged_where_they_are_published_so(experiment, full):
    assert compose(f"experiment={experiment}").callbacks.average.decay == full
    assert compose(f"experiment={experiment}", "size=mini").callbacks.average.decay == 0.99


@pytest.mark.parametrize(
    ("model", "full", "mini"),
    [("zsm", 4e-4, 2e-4), ("edvr_l", 4e-4, 2e-4), ("vtsr", 1e-4, 2e-4), ("wdvr3d", 1e-3, 1e-3)],
)
def test_a_size_scales_every_papers_rate_by_one_rule(model, full, mini):
    assert compose(f"model={model}").model.optimizer.lr == full
    assert compose(f"model={model}", "size=mini").model.optimizer.lr == mini
    assert compose(f"model={model}", "size.rate=3e-4").model.optimizer.lr == (1e-3 if full == 1e-3 else 3e-4)


def test_former_names_of_options_are_accepted():
    assert compose("model=vtsr", "size.imagenet=false", "size.frozen=0.5").size.pretrained is False
    assert compose("model=vtsr", "size.vtsr_rate=3e-4").model.optimizer.lr == 3e-4


@pytest.mark.parametrize(
    ("short", "group"),
    [
        ("model/network/align=pcd", "model/edvr/align=pcd"),
        ("model/network/align=unaligned,affine", "model/vtsr/align=unaligned,affine"),
        ("model/scheme=multilevel", "model/vtsr/scheme=multilevel"),
        ("+model/network/reconstruct/body=wide", "+model/wdvr/reconstruct/body=wide"),
        ("model.network.align.groups=1", "model.network.align.groups=1"),
        ("--help", "--help"),
    ],
)
def test_a_part_is_chosen_by_its_place_whichever_paper_it_belongs_to(short, group):
    assert translate([short]) == [group]
    assert by_place(group) == short
    assert name_overrides([short]) == name_overrides([group])


def test_an_unknown_part_names_the_nearest():
    with pytest.raises(UserError, match=r"^There is no model/network/align=pdc: did you mean pcd\?"):
        translate(["model/network/align=pdc"])


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name.startswith("zsm")])
def test_clips_of_zooming_slowmo_are_reversed_at_random(experiment, tmp_path):
    config = compose(f"experiment={experiment}", f"data.root={tmp_path}")
    data = build_data(config, build_restorer(config, build_training_network(config)))
    assert data.augmentation == Augmentation(flip=True, rotate=True, reverse=True, jitter=Jitter())


@pytest.mark.parametrize("experiment", ["zsm_vimeo", "zsm_adobe240", "dsfn_adobe240", "cascade_adobe240"])
def test_networks_of_papers_without_bfloat16_train_in_single_precision(experiment):
    assert compose(f"experiment={experiment}", "trainer=ddp").trainer.precision == "32-true"
    assert compose(f"experiment={experiment}", "trainer.precision=auto").trainer.precision == "auto"


def test_all_clips_of_vimeo90k_train():
    assert compose("experiment=zsm_vimeo").data.layout.hold_back == 0
    assert compose("experiment=zsm_vimeo", "data=folder", "data.root=x").data.layout.hold_back == 0.2
