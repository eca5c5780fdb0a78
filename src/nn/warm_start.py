"""Initial weights under which a network already interpolates, so that a short training only adds what that lacks.

Three channels of every feature, the *carriers*, bring the colours of the input through all parts to the output: frames
are enlarged by quadratic interpolation (DSFN repeats pixels by itself), those in between are blended. Where frames are
shrunk on the way, carriers are as many more, one for each pixel of a frame. The other channels start as they always do.
Nothing here changes what a network can learn, or its parameters' names and shapes. The published trainings start
without it.

Carriers are centred about zero where tanh, zero padding and leaky ReLU would bend them: tanh is straightest there, a
padded border is grey instead of black, and a carrier beside its own negative passes a leaky ReLU unbent, since
leaky(x) - leaky(-x) = (1 + slope) x.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from src.errors import UserError
from src.nn.align import DeformablePack, PyramidAlign
from src.nn.blocks import SLOPE, Blend, ResidualBlock
from src.nn.encode import BlurredFrameEncoder, FrameEncoder, PreDeblur
from src.nn.fuse import TSA, ConvFuse, TemporalAttention, TemporalFuse
from src.nn.recur import ConvLSTM
from src.nn.upsample import Reconstruct
from src.ops.resize import imresize

CARRIERS = 3  # red, green, blue of a pixel
MIDDLE = 0.5  # of the range of colours
OPEN = 6.0  # bias of a gate that lets through, sigmoid(6) = 0.998
FAINT = 1e-3  # of what fusion usually starts with
LIFT = 1.0  # what fused features are raised by before a leaky ReLU, so that those below zero pass it unbent
STEEP = 4.0  # what differences between frames, which are small, are multiplied by
SMALL = 0.15  # what carriers are scaled by before tanh, which is nearly linear there


def start_interpolating(network: nn.Module) -> None:
    """Sets the carriers' weights in every part of ``network``, in place."""
    carriers = _carry_to_reconstruction(network)
    gain, offset = 1.0, 0.0  # carriers reach the reconstruction as gain * (colour - offset)
    for part in network.modules():
        if isinstance(part, ConvLSTM):
            gain, offset = _carry_through_gates(part), MIDDLE
    for part in network.modules():
        if isinstance(part, Reconstruct):
            _enlarge(part, gain, offset, carriers)


def start_adding_little(network: nn.Module, *, differences: bool = False) -> None:
    """Likewise for a network that adds what it makes to an enlarged frame: fusion starts by handing on next to nothing.

    Not nothing: of a carrier and its negative one is above zero, and passes a leaky ReLU whole. At zero none is, and
    next to no gradient comes back through several of them.

    Args:
        network: in place.
        differences: whether other channels start as differences between the middle frame's carriers and the others',
            as far as there are channels. What undoes motion blur is made of these, and an optimiser that has to find
            them moves weights by about one, whose sum may hardly move.
    """
    carriers = _carry_to_reconstruction(network)
    for part in network.modules():
        if isinstance(part, ConvFuse | TSA):
            with torch.no_grad():
                faint = FAINT * part.fuse.weight[:carriers]
                carry(part.fuse, [0.0], carriers)
                part.fuse.weight[:carriers] = faint
            if differences:
                _tell_apart(part.fuse, carriers)
        if isinstance(part, TemporalFuse):
            _compare_evenly(part)
        if isinstance(part, TSA):
            _start_as_convolution(part)
        if isinstance(part, Reconstruct):
            _enlarge(part, 1.0, MIDDLE, carriers)
            nn.init.zeros_(part.last.bias)  # type: ignore[arg-type]


def start_unaligned(network: nn.Module) -> None:
    """Alignment and attention start by leaving features as they are (attention: half of them), in place."""
    for part in network.modules():
        if isinstance(part, DeformablePack):
            _carry_through_alignment(part, part.weight.shape[0])
        elif isinstance(part, PyramidAlign):
            _carry_through_alignment(part, part.channels)
        elif isinstance(part, TemporalAttention):
            _compare_nothing(part)


def start_attention(network: nn.Module, loaded: Collection[str]) -> None:
    """Attention starts as the plain fusion whose weights were loaded in its place, in every part of ``network``.

    Args:
        network: with the weights loaded.
        loaded: their names.
    """
    for name, part in network.named_modules():
        if isinstance(part, TSA) and f"{name}.fuse.weight" in loaded and f"{name}.weigh.embed.weight" not in loaded:
            _start_as_convolution(part)


def _carry_to_reconstruction(network: nn.Module) -> int:
    """Sets the carriers' weights in all parts before the reconstruction; returns how many carriers there are."""
    carriers = CARRIERS
    for part in network.modules():
        if isinstance(part, FrameEncoder):
            carry(part.conv, [1.0])
        elif isinstance(part, PreDeblur):
            carry(part.first, [1.0])
            for conv in part.shrink:
                carriers = _carry_pixels_apart(conv, carriers)
            for conv in part.down:
                carry(conv, [0.0], carriers)  # what comes back up adds nothing to them
    for part in network.modules():
        if isinstance(part, BlurredFrameEncoder):
            carry(part.mix, [1.0], carriers)
        elif isinstance(part, ResidualBlock):
            carry(part.conv2, [0.0], carriers)  # nothing is added to them
        elif hasattr(part, "spare"):  # blocks of another kind
            part.spare(carriers)  # type: ignore[operator]
        elif isinstance(part, DeformablePack | PyramidAlign):
            _carry_through_alignment(part, carriers)
        elif isinstance(part, Blend):
            carry(part, [0.5, 0.5], carriers)
    return carriers


def _carry_through_alignment(part: DeformablePack | PyramidAlign, carriers: int) -> None:
    if isinstance(part, DeformablePack):
        _carry_weight(part.weight, [2.0], carriers)  # the mask starts at one half
    else:
        for blend in part.blend:
            carry(blend, [1.0, 0.0], carriers)


@torch.no_grad()
def start_enlarging(direct: Any, beside: Any, scale: int) -> None:
    """Two convolutions whose sum, shuffled, is a frame, give the bicubic enlargement of the middle one at first.

    Args:
        direct: convolution over 5x5 pixels of frames, channels before time: weights (3*s*s, 3*T, 5, 5) or
            (3*s*s, 3, T, 5, 5).
        beside: convolution that sees anything; what it adds starts at a tenth of its usual size.
        scale: s.
    """
    taps = imresize(torch.eye(25).view(25, 5, 5), scale)[:, 2 * scale : 3 * scale, 2 * scale : 3 * scale]
    shape = direct.weight.shape
    weight = torch.zeros(shape).view(3, scale**2, 3, -1, 5, 5)
    for channel in range(3):
        weight[channel, :, channel, weight.shape[3] // 2] = taps.reshape(5, 5, -1).permute(2, 0, 1)
    direct.weight = weight.view(shape)
    beside.weight = 0.1 * beside.weight
    for conv in (direct, beside):
        conv.bias.zero_()


@torch.no_grad()
def carry(conv: nn.Module, shares: list[float], carriers: int = CARRIERS) -> None:
    """Carriers, the first channels, come out of ``conv`` as the weighted sum of those of its concatenated inputs.

    Args:
        conv: a convolution of an odd size.
        shares: the weight of each of the inputs, which have equally many channels.
        carriers: how many there are.
    """
    assert isinstance(conv, nn.Conv2d)
    _carry_weight(conv.weight, shares, carriers)
    if conv.bias is not None:
        conv.bias[:carriers] = 0


@torch.no_grad()
def _carry_weight(weight: Tensor, shares: list[float], carriers: int) -> None:
    middle, inputs = weight.shape[-1] // 2, weight.shape[1] // len(shares)
    if carriers > weight.shape[0]:
        raise _too_narrow(carriers)
    weight[:carriers] = 0
    for number, share in enumerate(shares):
        for channel in range(carriers):
            weight[channel, number * inputs + channel, middle, middle] = share


@torch.no_grad()
def _carry_pixels_apart(conv: nn.Module, carriers: int) -> int:
    """Four pixels of a carrier become four carriers of one pixel, in pixel shuffling's order; returns how many."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    if 4 * carriers > conv.out_channels:
        raise _too_narrow(4 * carriers)
    conv.weight[: 4 * carriers] = 0
    conv.bias[: 4 * carriers] = 0
    for channel in range(4 * carriers):
        conv.weight[channel, channel // 4, 1 + channel % 4 // 2, 1 + channel % 2] = 1
    return 4 * carriers


def _too_narrow(channels: int) -> UserError:
    return UserError(
        f"a network that starts interpolating has {channels} channels or more here: raise size.width, or set "
        "size.warm_start=false"
    )


@torch.no_grad()
def _tell_apart(fuse: nn.Conv2d, carriers: int) -> None:
    """Channels behind the carriers become differences of the middle frame's carriers to those of each other frame."""
    channels, inputs = fuse.weight.shape[:2]
    frames = inputs // channels
    others = [frame for frame in range(frames) if frame != frames // 2]
    pairs = [(frame, channel) for frame in others for channel in range(carriers)]
    for row, (frame, channel) in zip(range(carriers, channels), pairs, strict=False):
        fuse.weight[row] = 0
        fuse.weight[row, frame * channels + channel] = STEEP
        fuse.weight[row, frames // 2 * channels + channel] = -STEEP


@torch.no_grad()
def _start_as_convolution(part: TSA) -> None:
    """Attention starts alike everywhere, so that ``part`` does what ``part.fuse`` alone would."""
    fuse: Any = part.fuse
    shift: Any = part.attend.shift[-1]
    even: Any = [part.attend.mask, shift]
    for conv in even:
        conv.weight.zero_()
        conv.bias.zero_()
    _compare_evenly(part)
    fuse.bias += LIFT
    shift.bias -= LIFT


@torch.no_grad()
def _compare_evenly(part: TSA | TemporalFuse) -> None:
    """All frames start as alike, and what that halves is doubled by the convolution behind."""
    _compare_nothing(part.weigh)
    part.fuse.weight *= 2  # similarity starts at one half


@torch.no_grad()
def _compare_nothing(part: TemporalAttention) -> None:
    """All frames are as alike, by one half."""
    part.embed_reference.weight.zero_()
    nn.init.zeros_(part.embed_reference.bias)  # type: ignore[arg-type]


@torch.no_grad()
def _carry_through_gates(lstm: ConvLSTM) -> float:
    """The current frame's carriers go through, the state's do not; returns how much smaller they come out."""
    for part in lstm.modules():
        if isinstance(part, Blend):  # of the state and the current frame, which would come in twice
            carry(part, [0.0, 0.0])
    weight, bias = lstm.gates.weight, lstm.gates.bias
    assert bias is not None
    channels = len(bias) // 4
    for gate, start in enumerate((OPEN, -OPEN, OPEN, -SMALL * MIDDLE)):  # input, forget, output, candidate
        rows = slice(gate * channels, gate * channels + CARRIERS)
        weight[rows], bias[rows] = 0, start
    for channel in range(CARRIERS):
        weight[3 * channels + channel, channel, 1, 1] = SMALL
    return SMALL * float(torch.tensor(OPEN).sigmoid()) ** 2


@torch.no_grad()
def _enlarge(part: Reconstruct, gain: float, offset: float, carriers: int = CARRIERS) -> None:
    """Carriers, gain * (colour - offset) at first, leave ``part`` as colours, enlarged step by step."""
    steps = list(zip(part.upscale, part.steps, strict=True))
    while carriers > CARRIERS:  # pixels that are carried apart come together again, as colours, which are not negative
        conv, step = steps.pop(0)
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        carry(conv, [1 / gain], carriers)
        conv.bias[:carriers] = offset
        gain, offset, carriers = 1.0, 0.0, carriers // step**2
    sources = [(1 / gain, 0)]  # what makes one carrier: a factor, and which channels, counted in threes
    level = offset - MIDDLE  # what is missing to be centred
    for conv, step in [*steps, (part.refine, 1)]:
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        if conv.weight.shape[0] < 2 * CARRIERS * step**2:
            raise _too_narrow(2 * CARRIERS)
        taps = _quadratic(step)
        conv.weight[: 2 * CARRIERS * step**2] = 0
        for sign, first in ((1, 0), (-1, CARRIERS)):  # the carrier and its negative
            for channel in range(CARRIERS):
                rows = slice((first + channel) * step**2, (first + channel + 1) * step**2)
                for factor, source in sources:
                    conv.weight[rows, source + channel] = sign * factor * taps
                conv.bias[rows] = sign * level
        sources, level = [(1 / (1 + SLOPE), 0), (-1 / (1 + SLOPE), CARRIERS)], 0.0
    assert part.last.bias is not None
    part.last.weight.zero_()
    for channel in range(CARRIERS):
        for factor, source in sources:
            part.last.weight[channel, source + channel, 1, 1] = factor
    part.last.bias.fill_(MIDDLE)


def _quadratic(step: int) -> Tensor:
    """Weights (step * step, 3, 3) of the old pixels around each new one: Lagrange's quadratic through three of them."""
    place = (torch.arange(step) + 0.5) / step - 0.5  # of the new pixels, in old ones
    taps = torch.stack([place * (place - 1) / 2, 1 - place**2, place * (place + 1) / 2], dim=1)
    return torch.einsum("ai,bj->abij", taps, taps).flatten(0, 1)
