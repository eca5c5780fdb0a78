"""WDVR: the training of every experiment is the paper's, and where the paper is silent, the published code's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.config.composition import CONF, compose
from src.data.augment import Augmentation

# patch in input pixels, patches a step, epochs, clips, frames of a clip (100) for each patch: in 3D those of a sample
TRAININGS = {
    "wdvr2d_reds": (64, 32, 10, 240, 1),
    "wdvr2d_reds_20_epochs": (64, 32, 20, 240, 1),
    "wdvr3d_reds": (64, 4, 20, 240, 4),
    "wdvr3d_reds_30_epochs": (64, 4, 30, 240, 4),
    **{f"wdvr_reds_{track}": (64, 32, 20, 240, 1) for track in ("sr_clean", "sr_blur")},
    **{f"wdvr_reds_deblur_{track}": (64, 32, 20, 240, 1) for track in ("clean", "compression")},
    **{f"wdvr_reds_finetune{track}": (64, 32, 10, 270, 1) for track in ("", "_sr_blur")},
    **{f"wdvr_reds_finetune_deblur_{track}": (64, 32, 10, 270, 1) for track in ("clean", "compression")},
}


def compose_training(experiment: str, *options: str):
    return compose(f"experiment={experiment}", *options, *["checkpoint=a.ckpt"] * ("finetune" in experiment))


@pytest.mark.parametrize("experiment", TRAININGS)
def test_patches_batches_and_epochs(experiment):
    pixels, batch, epochs, clips, frames = TRAININGS[experiment]
    config = compose_training(experiment)
    assert config.data.crop == pixels * config.model.network.scale
    assert config.data.batch_size == batch
    assert (
        config.trainer.max_steps * batch == epochs * clips * 100 // frames * 100
    )  # 100 patches an epoch (Section 4.1.2)
    assert instantiate(config.degradation).scale == config.model.network.scale == (1 if "deblur" in experiment else 4)


@pytest.mark.parametrize("experiment", TRAININGS)
def test_a_mini_run_has_small_patches_and_batches(experiment):
    config = compose_training(experiment, "size=mini")
    assert (config.data.crop, config.data.batch_size, config.trainer.max_steps) == (96, 2, 500)


@pytest.mark.parametrize("experiment", TRAININGS)
def test_the_rate_falls_at_three_quarters_and_nine_tenths(experiment):
    config = compose_training(experiment)
    steps, schedule = config.trainer.max_steps, config.model.schedule and instantiate(config.model.schedule)
    found = [1 if schedule is None else schedule(int(share * steps), steps) for share in (0, 0.74, 0.76, 0.89, 0.91)]
    stopped_before, continued = [1] * 5, [0.01] * 5  # Section 4.1.3; Section 4.2
    special = {"wdvr2d_reds": stopped_before} | {name: continued for name in TRAININGS if "finetune" in name}
    assert found == pytest.approx(special.get(experiment, [1, 1, 0.1, 0.1, 0.01]))
    assert config.model.optimizer.lr == 1e-3


@pytest.mark.parametrize("recipe", ["wdvr", "wdvr3d"])
def test_samples_are_flipped_transposed_and_reversed(recipe):
    data = compose(f"recipe={recipe}").data
    augment = Augmentation(**{name: data[name] for name in ("flip", "flip_vertical", "rotate", "reverse")})
    clip = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4) / 96.0
    found = {tuple(augment(clip, clip, np.random.default_rng(seed))[0].flatten().tolist()) for seed in range(200)}
    transposed = clip.transpose(-1, -2)
    both = [part.flip(axes) for part in (clip, transposed) for axes in ([], [-1], [-2], [-1, -2])]
    assert found == {tuple(part.flatten().tolist()) for clip in both for part in (clip, clip.flip(0))}


def test_no_row_of_table_4_repeats_a_run_of_tables_1_and_2():
    swept = {
        study: set(OmegaConf.load(CONF / "ablation" / f"{study}.yaml").hydra.sweeper.params.experiment.split(","))
        for study in ("wdvr_window_size", "wdvr_block_design", "wdvr_2d_3d")
    }
    assert not swept["wdvr_2d_3d"] & (swept["wdvr_window_size"] | swept["wdvr_block_design"])
    short, long = (compose(f"experiment={name}").trainer.max_steps for name in ("wdvr3d_reds", "wdvr3d_reds_30_epochs"))
    assert short < long  # 28.94 and 29.2148 dB of one model


@pytest.mark.parametrize(("experiment", "border"), [("wdvr2d_reds", 10), ("wdvr_reds_deblur_clean", 7)])
@pytest.mark.parametrize(("protocol", "per_channel"), [("wdvr_authors", True), ("wdvr_authors_3d", False)])
def test_the_authors_score_leaves_out_a_border_of_six_and_the_scale(experiment, border, protocol, per_channel):
    rules = instantiate(compose(f"experiment={experiment}", f"protocol={protocol}").protocol)
    assert (rules.name, rules.crop, rules.luma, rules.per_channel) == (protocol, border, False, per_channel)


def test_a_step_in_3d_keeps_more_memory_than_one_in_2d():
    """Section 4.2: "3D models consume much more memory for training": 5.1 beside 1.3 GiB of tensors for gradients."""
    kept = {}
    for experiment, frames in (("wdvr2d_reds", 5), ("wdvr3d_reds", 20)):
        config, sizes = compose(f"experiment={experiment}"), {}
        side = config.data.crop // config.model.network.scale

        def keep(tensor, sizes=sizes):
            storage = tensor.untyped_storage()
            sizes[storage._cdata] = (storage.nbytes(), storage)  # alive, so that no address comes twice
            return tensor

        with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network = instantiate(config.model.network)
            estimate = network(torch.empty(config.data.batch_size, frames, 3, side, side))
            torch.nn.functional.l1_loss(estimate, torch.empty_like(estimate))
        kept[experiment] = sum(size for size, _ in sizes.values()) / 2**30
    assert kept == pytest.approx({"wdvr2d_reds": 1.31, "wdvr3d_reds": 5.06}, abs=0.02)
