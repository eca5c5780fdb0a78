"""Activation checkpointing saves memory and changes no gradient, no name and no copy."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from src.config.build import build_restorer
from src.config.composition import compose
from src.engine.memory import _LiveStorages
from src.nn.activation_checkpointing import checkpoint_activations

MODELS = ["edvr_m", "edvr_deblur", "edvr_s2", "zsm", "wdvr2d", "wdvr3d", "dsfn", "vtsr"]


def make_restorer(model: str, checkpointing: bool, *overrides: str) -> Any:
    config = compose(f"model={model}", "size=mini", f"model.checkpointing={checkpointing}", *overrides)
    torch.manual_seed(0)
    network = instantiate(config.model.network)
    for parameter in network.parameters():  # none at zero, so that everything has a gradient
        parameter.data += 0.01 * torch.randn_like(parameter)
    return build_restorer(config, network)


def make_batch(restorer: Any) -> dict[str, torch.Tensor]:
    return restorer.make_batch(1, 16, partial(torch.rand, generator=torch.Generator().manual_seed(1)))  # type: ignore[no-any-return]


def gradients(restorer: Any) -> dict[str, torch.Tensor | None]:
    sum(restorer.losses_of(make_batch(restorer)).values()).backward()  # type: ignore[union-attr]
    return {name: parameter.grad for name, parameter in restorer.network.named_parameters()}


@pytest.mark.long
@pytest.mark.parametrize(("model", "autocast"), [*((model, False) for model in MODELS), ("zsm", True)])
def test_gradients_are_the_same_to_the_last_bit(model: str, autocast: bool) -> None:
    plain, again = make_restorer(model, False), make_restorer(model, True)
    assert plain.state_dict().keys() == again.state_dict().keys()
    assert any("forward" in vars(module) for module in again.network.modules())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected, found = gradients(plain), gradients(again)
    assert any(gradient is not None and gradient.any() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (gradient is None) == (found[name] is None), name
        assert gradient is None or torch.equal(gradient, found[name]), name
    for name, buffer in plain.network.named_buffers():  # statistics of batches are counted once
        assert torch.equal(buffer, again.network.get_buffer(name)), name


def test_a_copy_computes_with_its_own_weights() -> None:
    restorer = make_restorer("edvr_m", True)
    other = copy.deepcopy(restorer)  # as in weight averaging
    inputs = make_batch(restorer)["inputs"]
    before = restorer.network(inputs)
    for parameter in other.network.parameters():
        parameter.data.zero_()
    assert torch.equal(restorer.network(inputs), before)
    assert not torch.equal(other.network(inputs), before)


@pytest.mark.long
@pytest.mark.parametrize(("model", "share"), [("edvr_m", 0.8), ("zsm", 0.5)])
def test_it_saves_memory(model: str, share: float) -> None:
    most = []
    for checkpointing in (False, True):
        restorer = make_restorer(model, checkpointing, "size.depth=0.2")
        batch = make_batch(restorer)
        with _LiveStorages() as live:
            sum(restorer.losses_of(batch).values()).backward()  # type: ignore[union-attr]
        most.append(live.peak)
    assert most[1] < share * most[0]


def test_passes_without_gradients_compute_nothing_twice() -> None:
    restorer = make_restorer("zsm", False)
    inputs = make_batch(restorer)["inputs"]
    calls = []
    for module in restorer.network.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        expected = restorer.network(inputs)
        count = len(calls)
        checkpoint_activations(restorer.network)
        assert torch.equal(restorer.network(inputs), expected)
    assert len(calls) == 2 * count
