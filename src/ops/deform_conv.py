"""Deformable convolution: a convolution with an offset on the sampling position of every tap.

Sources: Dai et al., "Deformable Convolutional Networks", ICCV 2017; with a mask: Zhu et al., "Deformable ConvNets v2:
More Deformable, Better Results", CVPR 2019, eq. 1. For output pixel p, tap k at p_k, and sampled bilinearly:

    y(p) = bias + sum_k  weight_k . x(p * stride - padding + p_k * dilation + offset_k(p)) * mask_k(p)

Shapes: B batch, C channels in, M channels out, H W input size, P Q output size, N = P * Q, K = kh * kw taps,
G offset groups (channels that share their offsets), D weight groups (the ``groups`` of an ordinary convolution).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

if torch.version.cuda is not None and find_spec("triton"):
    from src.ops import deform_conv_triton as fused
else:
    fused = None  # type: ignore[assignment]


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = (0, 0),
    dilation: int | tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Compute a deformable convolution with torchvision's signature, layout and results, and zeros outside the image.

    The fastest of three implementations that supports the tensors runs: :mod:`src.ops.deform_conv_triton` on an NVIDIA
    GPU, a table of pixels on a CPU without gradients, and otherwise ``grid_sample``, unless compiled or
    exported in small tiles, since its coordinates in float32 are only precise to a fraction of the image's size.

    Sampling positions and weights are computed in float32 at least, for any input dtype and under autocast: bfloat16
    has 8 bits and would be off by pixels in a wide image. The product with ``weight`` runs in its dtype, or in that of
    autocast, like an ordinary convolution.

    Args:
        input: ``(B, C, H, W)``.
        offset: ``(B, 2 * G * K, P, Q)`` in pixels: for each offset group, for each tap (rows first), dy and then dx.
        weight: ``(M, C / D, kh, kw)``.
        bias: ``(M,)``.
        stride: one number, or one for each axis (y, x).
        padding: zeros added around the image; one number or two.
        dilation: distance between taps; one number or two.
        mask: ``(B, G * K, P, Q)``, for each offset group, for each tap, a factor on the sample.

    Returns:
        ``(B, M, P, Q)`` with ``P = (H + 2 * padding - dilation * (kh - 1) - 1) // stride + 1``, and Q from W.

    Raises:
        ValueError: the shapes do not match.
    """
    stride, padding, dilation = _pair("stride", stride, 1), _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    _check_shapes(input, offset, weight, bias, stride, padding, dilation, mask)
    if fused is not None and fused.fits(input, offset, weight, mask):
        return fused.deform_conv2d_fused(input, offset, weight, bias, stride, padding, dilation, mask)
    exported = torch.compiler.is_exporting()  # an exported graph contains standard operators only
    if not exported and _without_gradients(input, offset, weight, bias, mask) and _suits_a_table(input, offset, weight):
        if torch.is_autocast_enabled("cpu"):
            weight = weight.to(torch.get_autocast_dtype("cpu"))
        return _by_table(input, offset, weight, bias, stride, padding, dilation, mask)
    # Tiles depend on the values of the offsets, and a compiled graph cannot. Float64 is precise without them.
    if not exported and not torch.compiler.is_compiling() and input.dtype != torch.float64:
        return _by_tiles(input, offset, weight, bias, stride, padding, dilation, mask)
    return _by_grid_sample(input, offset, weight, bias, stride, padding, dilation, mask)


def _without_gradients(*tensors: Tensor | None) -> bool:
    return not (torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors))


def _suits_a_table(input: Tensor, offset: Tensor, weight: Tensor) -> bool:
    """Check the limits of :func:`_by_table`: a CPU, one weight group, row numbers that are exact in float32."""
    height, width = input.shape[2:]
    return (
        input.device.type in ("cpu", "meta")  # meta: for counting FLOPs
        and input.dtype != torch.float64
        and weight.shape[1] == input.shape[1]
        and (height + 4) * (width + 4) <= 2**24
        and input.shape[0] * (height + 4) * (width + 4) * (offset.shape[1] // (2 * weight[0, 0].numel())) < 2**31
    )


FARTHEST = 2.0**24  # pixels of an offset: float32 has no fractions beyond
BLOCK = 4096  # output pixels per block of columns, which stays in the cache until its product


@torch.library.custom_op("zeitlupe::deform_conv2d_by_table", mutates_args=())
def _by_table(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    mask: Tensor | None,
) -> Tensor:
    """Sample by table lookup, in channels last and without gradients.

    A sample is a weighted sum of four rows of a table of the input's pixels, which ``embedding_bag`` computes. Columns
    are computed for a block of output rows at a time.
    """
    (B, C, H, W), (M, _, kh, kw), (P, Q) = input.shape, weight.shape, offset.shape[2:]
    K = kh * kw
    G = offset.shape[1] // (2 * K)
    # Positions outside the image fall on a border of two zeros on each side.
    table = input.new_zeros((B, H + 4, W + 4, C), dtype=torch.float32)
    table[:, 2:-2, 2:-2] = input.permute(0, 2, 3, 1)
    table = table.view(-1, C // G)
    corners = torch.tensor((0, G, (W + 4) * G, (W + 5) * G), dtype=torch.int32)  # of a position, in rows of the table

    # The taps of all groups, K * G, are one axis: shorter inner loops would cost more than their computation.
    tap_y = (torch.arange(kh) * dilation[0] + 2 - padding[0]).repeat_interleave(kw).repeat(G).float()
    tap_x = (torch.arange(kw) * dilation[1] + 2 - padding[1]).repeat(kh * G).float()
    base_y = (torch.arange(P) * stride[0]).repeat(B)[:, None, None] + tap_y  # (B * P, 1, G * K)
    base_x = (torch.arange(Q) * stride[1])[:, None] + tap_x  # (Q, G * K)
    first = (torch.arange(B) * ((H + 4) * (W + 4) * G)).repeat_interleave(P)[:, None, None] + torch.arange(G)[:, None]
    first = first.expand(-1, G, K).reshape(B * P, 1, G * K).to(torch.int32)  # start of each image and group
    offset = offset.permute(0, 2, 3, 1).reshape(B * P, Q, G * K, 2)
    mask = None if mask is None else mask.permute(0, 2, 3, 1).reshape(B * P, Q, G * K)
    kernel = weight.reshape(M, G, C // G, K).transpose(2, 3).reshape(M, -1, 1, 1)
    bias = None if bias is None else bias.to(weight.dtype)

    output = weight.new_empty(B * P, Q, M)
    for rows in torch.arange(B * P).split(max(1, BLOCK // Q)):
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        dy, dx = offset[some].float().unbind(-1)  # (rows, Q, G * K)
        y, x = dy.clamp(-FARTHEST, FARTHEST), dx.clamp(-FARTHEST, FARTHEST)
        top, left = y.floor(), x.floor()
        y.sub_(top), x.sub_(left)  # a fraction added to its whole pixel first would be rounded in a wide image
        top.add_(base_y[some]).clamp_(0, H + 2), left.add_(base_x).clamp_(0, W + 2)
        corner = top.mul_(W + 4).add_(left).to(torch.int32).clamp_(0, (H + 3) * (W + 4) - 2).mul_(G).add_(first[some])
        found, share = corner.unsqueeze(-1) + corners, y.new_empty(*y.shape, 4)
        lower = y if mask is None else y.mul_(mask[some])
        upper = 1 - y if mask is None else mask[some] - lower
        torch.mul(upper, x, out=share[..., 1])
        torch.sub(upper, share[..., 1], out=share[..., 0])
        torch.mul(lower, x, out=share[..., 3])
        torch.sub(lower, share[..., 3], out=share[..., 2])
        bags = torch.arange(0, found.numel(), 4, dtype=torch.int32)
        columns = F.embedding_bag(found.reshape(-1), table, bags, mode="sum", per_sample_weights=share.view(-1))
        columns = columns.view(1, -1, Q, kernel.shape[1]).to(weight.dtype)
        output[some] = _product(columns.permute(0, 3, 1, 2), kernel, bias).permute(0, 2, 3, 1)[0]
    return output.view(B, P, Q, M).permute(0, 3, 1, 2)


def _product(columns: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a 1x1 convolution, by oneDNN if available: on one thread, PyTorch would choose a slower kernel."""
    if torch.backends.mkldnn.is_available() and kernel.dtype == torch.float32:
        return torch.ops.aten.mkldnn_convolution(columns, kernel, bias, (0, 0), (1, 1), (1, 1), 1)
    return F.conv2d(columns, kernel, bias)


@_by_table.register_fake
def _(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    mask: Tensor | None,
) -> Tensor:
    (B, _, P, Q), M = offset.shape, weight.shape[0]
    return weight.new_empty(B, P, Q, M).permute(0, 3, 1, 2)


@register_flop_formula(torch.ops.zeitlupe.deform_conv2d_by_table)
def _operations(input: Any, offset: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Count two operations for each multiply-add of the product, as for an ordinary convolution of the same size."""
    B, _, P, Q = offset
    return 2 * B * P * Q * math.prod(weight)


TILE, SMALL = 96, 128  # sides of an output tile, and of an image that needs no tiles


def _by_tiles(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    """Compute tiles of the output, each from the window of the input that its offsets reach.

    ``grid_sample`` takes coordinates relative to the size of the image, so the smaller a window, the finer they are,
    and a power of two scales them without rounding. Windows of a large image absorb the whole pixels of a position.
    """
    (H, W), (P, Q) = input.shape[2:], offset.shape[2:]
    tiles, windows = [((0, P), (0, Q))], [((0, H), (0, W))]
    if max(H, W) > SMALL and offset.numel():
        small = [
            ((top, min(top + TILE, P)), (left, min(left + TILE, Q)))
            for top in range(0, P, TILE)
            for left in range(0, Q, TILE)
        ]
        reached = _windows((H, W), weight.shape[2:], small, offset.detach(), stride, padding, dilation)
        if sum((y[1] - y[0]) * (x[1] - x[0]) for y, x in reached) < 4 * H * W:  # no offsets go far astray
            tiles, windows = small, reached
    outputs = []
    for image, (rows, columns), (y, x) in zip(_Windows.apply(input, windows), tiles, windows, strict=True):
        some = (..., slice(*rows), slice(*columns))
        shifted = padding[0] + y[0] - rows[0] * stride[0], padding[1] + x[0] - columns[0] * stride[1]
        factor = None if mask is None else mask[some]
        outputs.append(
            _by_grid_sample(image, offset[some], weight, bias, stride, shifted, dilation, factor, exact=True)
        )
    across = sum(rows[0] == 0 for rows, _ in tiles)
    return torch.cat([torch.cat(outputs[n : n + across], 3) for n in range(0, len(outputs), across)], 2)


Span = tuple[int, int]  # first pixel, and the one behind the last


def _windows(
    size: Sequence[int],
    kernel: Sequence[int],
    tiles: Sequence[tuple[Span, Span]],
    offset: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> list[tuple[Span, Span]]:
    """Find the rows and columns of the image that each tile of the output samples."""
    reach = torch.stack([_reach(offset[..., slice(*rows), slice(*columns)]) for rows, columns in tiles]).tolist()

    def span(tile: Span, low: float, high: float, axis: int) -> Span:
        first = tile[0] * stride[axis] - padding[axis] + math.floor(max(low, -FARTHEST))
        last = (tile[1] - 1) * stride[axis] - padding[axis] + (kernel[axis] - 1) * dilation[axis]
        start = min(max(first - 1, 0), size[axis] - 1)  # rounding may carry a sample across a pixel
        return start, max(start + 1, min(last + math.floor(min(high, FARTHEST)) + 3, size[axis]))

    return [
        (span(rows, low_y, high_y, 0), span(columns, low_x, high_x, 1))
        for (rows, columns), ((low_y, low_x), (high_y, high_x)) in zip(tiles, reach, strict=True)
    ]


def _reach(offset: Tensor) -> Tensor:
    """Compute the least and the greatest offset, (2, 2) with y before x; infinite if one is NaN."""
    pairs = offset.float().unflatten(1, (-1, 2))
    low, high = pairs.amin((0, 1, 3, 4)), pairs.amax((0, 1, 3, 4))
    return torch.stack((low.nan_to_num(-math.inf), high.nan_to_num(math.inf)))


class _Windows(torch.autograd.Function):
    """Cut windows out of images, with zeros up to a power of two behind them; gradients are added in one image."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, windows: Sequence[tuple[Span, Span]]) -> tuple[Tensor, ...]:
        ctx.windows, ctx.shape = windows, input.shape
        return tuple(_pad_to_power_of_two(input[..., slice(*rows), slice(*columns)]) for rows, columns in windows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].new_zeros(ctx.shape)
        for grad, (rows, columns) in zip(grads, ctx.windows, strict=True):
            part = total[..., slice(*rows), slice(*columns)]
            part += grad[..., : part.shape[-2], : part.shape[-1]]
        return total, None


def _pad_to_power_of_two(image: Tensor) -> Tensor:
    missing = [2 ** (size - 1).bit_length() - size for size in image.shape[-2:]]
    return F.pad(image, (0, missing[1], 0, missing[0])) if any(missing) else image.clone()


def _by_grid_sample(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
    *,
    exact: bool = False,
) -> Tensor:
    """Sample all taps in one ``grid_sample``, then multiply the columns, without a copy, in one matrix product.

    With ``exact``, the sides of the image must be powers of two: whole pixels have exact coordinates.
    """
    (B, C, H, W), (M, c, kh, kw), (P, Q) = input.shape, weight.shape, offset.shape[2:]
    K, N, D = kh * kw, P * Q, C // c
    G = offset.shape[1] // (2 * K)
    precise = torch.float64 if input.dtype == torch.float64 else torch.float32

    # Offset groups go into the batch. x and y stay separate planes, as in the offsets: no interleaving needed.
    dy, dx = offset.to(precise).reshape(B * G, kh, kw, 2, P, Q).unbind(3)
    y = dy * (2 / H) + _base(P, kh, H, stride[0], padding[0], dilation[0], dy, exact).view(kh, 1, P, 1)
    x = dx * (2 / W) + _base(Q, kw, W, stride[1], padding[1], dilation[1], dx, exact).view(1, kw, 1, Q)
    grid = torch.stack((x, y), dim=1).view(B * G, 2, K * P, Q).permute(0, 2, 3, 1)

    image = input.to(precise).reshape(B * G, C // G, H, W)
    columns = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if mask is not None:
        columns, mask = columns.view(B, G, C // G, K, N), mask.to(precise).reshape(B, G, 1, K, N)
        # The in-place product needs half the memory, but with autograd it would copy its input first.
        columns = columns * mask if torch.is_grad_enabled() else columns.mul_(mask)

    columns = columns.view(B * D, c * K, N).to(weight.dtype)
    kernel = weight.reshape(1, D, M // D, c * K).expand(B, -1, -1, -1).reshape(B * D, M // D, c * K)
    output = torch.bmm(kernel, columns).view(B, M, P, Q)
    return output if bias is None else output + bias.to(output.dtype).view(-1, 1, 1)


def _base(
    outputs: int, taps: int, size: int, stride: int, padding: int, dilation: int, like: Tensor, exact: bool
) -> Tensor:
    """Compute the positions of taps along one axis without offsets, ``(taps, outputs)``, in ``grid_sample`` units.

    The image border is at -1 and 1 (``align_corners=False``): zeros outside keep their meaning, and positions are
    defined even in an image one pixel wide.
    """
    first = torch.arange(taps, dtype=like.dtype, device=like.device) * dilation - padding
    pixel = first[:, None] + torch.arange(outputs, dtype=like.dtype, device=like.device) * stride
    # Without offsets every position is a whole pixel, a kink of bilinear interpolation. Rounding could fall on either
    # side; the additional epsilon makes the offset's gradient the right-hand one, as in torchvision.
    return (2 * pixel + (1 - size)) / size + (0 if exact else 1.5 * torch.finfo(like.dtype).eps)


def _pair(name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"deform_conv2d: {name} must be one or two numbers, {least} or more, not {value}.")
    return pair


def _check_shapes(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> None:
    """Raise a ValueError for the first shape that does not match."""
    for name, tensor in (("input", input), ("offset", offset), ("weight", weight)):
        if tensor.dim() != 4:
            raise ValueError(f"deform_conv2d: {name} must have 4 dimensions, not {tensor.dim()}.")
    (B, C), (M, c, *kernel) = input.shape[:2], weight.shape
    if c == 0 or C % c or M % (C // c):
        raise ValueError(f"deform_conv2d: {C} input channels do not fit a weight of shape {tuple(weight.shape)}.")
    if bias is not None and bias.shape != (M,):
        raise ValueError(f"deform_conv2d: bias must have shape ({M},), not {tuple(bias.shape)}.")
    K = kernel[0] * kernel[1]
    G = offset.shape[1] // (2 * K)
    if G == 0 or offset.shape[1] % (2 * K) or C % G:
        raise ValueError(
            f"deform_conv2d: offset must have 2 * groups * {K} channels, groups dividing {C}, not {offset.shape[1]}."
        )
    P, Q = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(input.shape[2:], kernel, stride, padding, dilation, strict=True)
    )
    if P < 1 or Q < 1:
        raise ValueError(f"deform_conv2d: an input of {tuple(input.shape[2:])} pixels is smaller than the kernel.")
    if offset.shape != (B, 2 * G * K, P, Q):
        raise ValueError(f"deform_conv2d: offset must have shape {(B, 2 * G * K, P, Q)}, not {tuple(offset.shape)}.")
    if mask is not None and mask.shape != (B, G * K, P, Q):
        raise ValueError(f"deform_conv2d: mask must have shape {(B, G * K, P, Q)}, not {tuple(mask.shape)}.")
