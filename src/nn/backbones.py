"""Image classifiers without their heads, under torchvision's parameter names, so that ImageNet weights fit.

MobileNetV2 is VTSR's encoder, VGG16 computes its perceptual loss. Both expect frames of :func:`normalise_imagenet`,
like those that torchvision's weights were trained on.

Shapes: N batch (clips times frames), C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from src.errors import UserError
from src.nn.blocks import conv3x3
from src.nn.warm_start import RGB, check_width

MEAN = (0.485, 0.456, 0.406)  # mean and standard deviation of ImageNet's RGB in [0, 1]
STD = (0.229, 0.224, 0.225)
DOWNLOADS = "https://download.pytorch.org/models"
SOCKET_TIMEOUT = 20.0  # seconds without data from the download server


def normalise_imagenet(frames: Tensor) -> Tensor:
    """Normalise RGB frames (..., 3, H, W) in [0, 1] by ImageNet's mean and standard deviation."""
    return (frames - frames.new_tensor(MEAN).view(3, 1, 1)) / frames.new_tensor(STD).view(3, 1, 1)


def make_divisible(channels: float) -> int:
    """Return the nearest multiple of 8 that is at least 8 and at most a tenth below ``channels``."""
    nearest = max(8, int(channels / 8 + 0.5) * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _init_weights(network: nn.Module) -> None:
    """Initialise with Kaiming normal weights by fan-in and zero biases.

    Signals then keep their magnitude even with untrained batch statistics.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation, ReLU6: (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1 projection; plus the input if the shapes agree.

    (N, inputs, H, W) to (N, outputs, H / stride, W / stride). MobileNetV2, Section 3.3 and Table 1.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([ConvNorm(inputs, hidden, kernel=1)] if expansion > 1 else []),
            ConvNorm(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2's features at strides 2, 4, 8, 16 and 32, finest first: (N, 3, H, W) to five of (N, C, ., .).

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, Table 2, up to the last
    bottleneck. Half an odd size is rounded up. VTSR's encoder (thesis, Section 3.2.1).

    Args:
        width: factor on all channel counts, each rounded to a multiple of 8; ImageNet weights have 1.

    Attributes:
        channels: C of the five levels, (16, 24, 32, 96, 320) at width 1.
    """

    imagenet = "mobilenet_v2-b0353104.pth"
    levels = (1, 3, 6, 13, 17)  # the last block of each size
    stages = (  # expansion, channels, blocks, stride of the first: Table 2
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        self.width = width
        sizes = [make_divisible(32 * width)]
        layers: list[nn.Module] = [ConvNorm(3, sizes[0], kernel=3, stride=2)]
        for expansion, channels, blocks, stride in self.stages:
            for block in range(blocks):
                inputs, outputs = sizes[-1], make_divisible(channels * width)
                step = stride if block == 0 else 1
                layers.append(InvertedResidual(inputs, outputs, stride=step, expansion=expansion))
                sizes.append(outputs)
        self.features = nn.Sequential(*layers)
        self.channels = [sizes[level] for level in self.levels]
        _init_weights(self)

    @torch.no_grad()
    def init_with_colours(self) -> None:
        """Make the first three channels of the finest feature the colours of the input at half the size, in place.

        Pairs of channels of opposite sign carry them through ReLU6. They are scaled and centred by the normalisations.
        """
        layers: Any = self.features
        (enter, norm, _), block = layers[0], layers[1]
        check_width(enter.out_channels, 2 * RGB)
        spread, spread_norm, _ = block.conv[0]
        project = block.conv[1]
        for weight in (enter.weight[: 2 * RGB], spread.weight[: 2 * RGB], project.weight[:RGB]):
            weight.zero_()
        for colour in range(RGB):
            for channel, sign in ((colour, 1), (RGB + colour, -1)):
                enter.weight[channel, colour, 1:, 1:] = sign / 4  # the mean of 2x2 pixels
                spread.weight[channel, 0, 1, 1] = 1
                project.weight[colour, channel, 0, 0] = sign
        norm.bias[: 2 * RGB] = 0
        spread_norm.bias[: 2 * RGB] = 1  # the mean of half a normal distribution is 0.7 of its deviation

    def forward(self, x: Tensor) -> list[Tensor]:
        pyramid = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.levels:
                pyramid.append(x)
        return pyramid


class VGG16(nn.Module):
    """VGG16's conv4_3 before its ReLU: (N, 3, H, W) to (N, 512, H/8, W/8), rounded down; H and W at least 8.

    Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, Table 1,
    column D. The features of VTSR's perceptual loss (thesis, Section 3.3).
    """

    imagenet = "vgg16-397923af.pth"

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3)):
            for _ in range(convolutions):
                layers += [conv3x3(inputs, outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-2])  # neither the last ReLU nor the pooling after it
        _init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


def imagenet_file(backbone: MobileNetV2 | VGG16 | type[MobileNetV2] | type[VGG16]) -> Path:
    """Return the path of a backbone's ImageNet weights in torch's cache."""
    return Path(torch.hub.get_dir(), "checkpoints", backbone.imagenet)


def load_imagenet(network: MobileNetV2 | VGG16, file: str | Path | None = None, *, otherwise: str = "") -> None:
    """Load torchvision's ImageNet weights into a backbone, in place.

    The source is ``file``, or else torch's cache (``torch.hub.get_dir()/checkpoints``), or else a download into that
    cache. Weights of layers outside the backbone are dropped. Code in a file is never executed.

    Args:
        network: the backbone; a MobileNetV2 of width 1.
        file: path of torchvision's file.
        otherwise: the alternative to ImageNet weights, as a clause that ends every error message.

    Raises:
        UserError: the weights cannot be downloaded, the file is damaged or belongs to another network, or the width
            is not 1.
    """
    name, url, cached = type(network).__name__, f"{DOWNLOADS}/{network.imagenet}", imagenet_file(network)
    ending = f"; {otherwise}" if otherwise else ""
    if isinstance(network, MobileNetV2) and network.width != 1:
        raise UserError(f"ImageNet weights exist for MobileNetV2 of width 1, not of {network.width}{ending}.")
    path = cached if file is None else Path(os.path.expanduser(file))
    remedy = (f"delete it and download {url} again" if file is None else f"download {url}") + ending
    if os.path.exists(path):  # unlike Path.exists, returns False in a folder without permission
        state = _read(path, remedy)
    elif file is None:
        state = _download(url, cached, name, ending)
    else:
        raise UserError(f"There is no file {path} with ImageNet weights for {name}; {remedy}.")
    expected = {key: tensor for key, tensor in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    bad = [key for key, tensor in expected.items() if _shape(state.get(key)) != tensor.shape]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise UserError(
            f"{path} does not hold the weights of {name}: missing or of another shape are {', '.join(bad[:3])}{more}; "
            f"{remedy}."
        )
    network.load_state_dict({key: state[key] for key in expected}, strict=False)


def _shape(value: object) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def _read(path: Path, remedy: str) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises almost any exception for a damaged file
        cause = "it is damaged, cannot be opened, or holds more than plain weights"
        raise UserError(f"{path} cannot be read as ImageNet weights: {cause}; {remedy}.") from error
    if not isinstance(state, Mapping):
        raise UserError(f"{path} holds a {type(state).__name__}, not a dictionary of weights; {remedy}.")
    return state


def _download(url: str, cached: Path, name: str, ending: str) -> Mapping[str, Tensor]:
    try:
        with _socket_timeout(), contextlib.redirect_stdout(sys.stderr):  # torch logs downloads to standard output
            return torch.hub.load_state_dict_from_url(
                url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: wrong hash
        raise UserError(
            f"No ImageNet weights for {name}: {cached} does not exist and could not be downloaded "
            f"({error.reason if isinstance(error, URLError) else error}); download {url} to that path{ending}."
        ) from error


@contextlib.contextmanager
def _socket_timeout() -> Iterator[None]:
    """Set a default timeout for new sockets, since torch's downloads have none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
