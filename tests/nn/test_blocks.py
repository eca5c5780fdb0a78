import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import nn

from src.config.composition import compose
from src.engine.stream import stream
from src.nn.backbones import MobileNetV2
from src.nn.blocks import conv3x3, fold_norms, upsample2x, upsample2x_conv
from src.nn.clips import cat_clips, flatten_time, stack_channels, unflatten_time

NETWORKS = [
    "edvr_m",
    "edvr_m model/network/fuse=conv",
    "edvr_deblur",
    "zsm",
    "dsfn",
    "wdvr2d",
    "wdvr3d",
    "vtsr",
    "vtsr model/network/align=affine model/network/attend=attention",
    "vtsr model/network/align=deformable",
]


def clip(batch: int, frames: int, *, last: bool) -> torch.Tensor:
    layout = torch.channels_last if last else torch.contiguous_format
    pixels = torch.rand(batch * frames, 8, 5, 6).contiguous(memory_format=layout)
    return unflatten_time(pixels, torch.empty(batch, frames, 0))


@pytest.mark.parametrize("name", NETWORKS)
def test_all_convolutions_of_inference_run_in_channels_last(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, *changes = name.split()
    network = instantiate(compose(f"model={model}", "size=mini", *changes).model.network)
    fold_norms(network).requires_grad_(False)
    conv2d, count, misplaced = F.conv2d, 0, []

    def checked_conv(x: torch.Tensor, weight: torch.Tensor, *options: object, **named: object) -> torch.Tensor:
        nonlocal count
        if x.shape[1] > 3:  # the first convolution converts frames
            count += 1
            if not torch.empty_like(x).is_contiguous(memory_format=torch.channels_last):
                misplaced.append((tuple(x.shape), x.stride(), tuple(weight.shape)))
        return conv2d(x, weight, *options, **named)

    monkeypatch.setattr(F, "conv2d", checked_conv)
    frames = [torch.rand(3, 36, 44) for _ in range(6)]
    assert len(list(stream(network, frames))) >= 6
    assert count > 10
    assert misplaced == []


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_clips_keep_their_memory_format(batch: int, frames: int, last: bool) -> None:
    first, second = clip(batch, frames, last=last), clip(batch, frames, last=last)
    layout = torch.channels_last if last else torch.contiguous_format
    with torch.no_grad():
        for dim in (0, 1):
            both = cat_clips([first, second], dim)
            assert torch.equal(both, torch.cat([first, second], dim))
            assert torch.equal(flatten_time(both), both.flatten(0, 1))
            assert both.flatten(0, 1).is_contiguous(memory_format=layout)
        assert torch.equal(stack_channels(first), first.flatten(1, 2))
        assert stack_channels(first).is_contiguous(memory_format=layout)
        assert torch.equal(unflatten_time(flatten_time(first), first), first)
        assert torch.empty_like(flatten_time(first)).is_contiguous(memory_format=torch.channels_last)


def test_upsample2x_conv_equals_convolution_after_upsampling() -> None:
    torch.manual_seed(0)
    conv = conv3x3(7, 3).double()
    for height, width in ((1, 1), (1, 5), (6, 9)):
        x = torch.rand(2, 7, height, width, dtype=torch.float64, requires_grad=True)
        pairs = []
        for result in (conv(upsample2x(x)), upsample2x_conv(conv, x)):
            weights = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).view_as(result)
            pairs.append((result, *torch.autograd.grad((result * weights).sum(), [x, conv.weight, conv.bias])))
        for expected, found in zip(*pairs, strict=True):
            torch.testing.assert_close(found, expected)


def test_fold_norms_folds_batch_normalisation_into_kernels() -> None:
    torch.manual_seed(0)
    network = MobileNetV2(width=0.5).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                nn.init.uniform_(tensor, 0.5, 1.5)
    frames = torch.rand(2, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = network.eval()(frames)
        found = fold_norms(network)(frames)
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for level, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert one.std() > 0, level
        torch.testing.assert_close(other, one)
