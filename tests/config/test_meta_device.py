"""Every model of the configuration can be built without memory, as the report does to count its parameters."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from src.checkpoints.descriptions import build
from src.config.composition import CONF, compose
from src.nn.blocks import count_parameters

WITHOUT_NETWORK = {"cascade", "released"}  # made of weights that exist already
MODELS = sorted(p.stem for p in (CONF / "model").glob("[!_]*.yaml") if p.stem not in WITHOUT_NETWORK)
BASELINES = {"bicubic", "blend", "blend_pixels", "flow", "nothing", "repeat", "unchanged"}


@pytest.mark.parametrize("size", ["full", "mini"])
@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_built_on_the_meta_device(model, size):
    description = OmegaConf.to_container(compose(f"model={model}", f"size={size}").model.network, resolve=True)
    with torch.device("meta"):
        network = build(description, model)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert (count_parameters(network) == 0) == (model in BASELINES)
