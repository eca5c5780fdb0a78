"""Deformable convolution on an NVIDIA GPU: one fused kernel for the forward and one for the backward pass.

The same function as ``src.ops.deform_conv``, which calls this one if ``fits`` returns True. Materialised columns
(the samples of all taps) would be K times the size of the image. Instead, a program samples the columns of a tile of
pixels, tap by tap, and multiplies them with the weight on chip. The image is read in channels last, so the channels of
an offset group are contiguous: they share one position, and each of its four corners is one short run of memory.

Shapes: B batch, C channels in, M channels out, H W input size, P Q output size, K = kh * kw taps, G offset groups.
A tile has N pixels; its columns of one tap are (N, g, c): g offset groups of c channels each, (N, g * c) as a matrix.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

_LOW_AND_SINGLE = (torch.float32, torch.bfloat16, torch.float16)
# Programs of the backward pass: several waves on the 132 multiprocessors of an H100, so that a partial last wave costs
# little. More programs would write and add more partial sums of the weight's gradient.
_PROGRAMS = 1024


def fits(input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None) -> bool:
    """Check that ``deform_conv2d_fused`` supports these tensors, assuming matching shapes.

    It supports NVIDIA devices from compute capability 8.0, one weight group, and float32 and below; neither
    deterministic mode nor export, since an exported program must run without this module.
    """
    tensors = (input, offset, weight) if mask is None else (input, offset, weight, mask)
    return (
        all(tensor.is_cuda and tensor.dtype in _LOW_AND_SINGLE for tensor in tensors)
        and weight.shape[1] == input.shape[1]
        and not torch.are_deterministic_algorithms_enabled()
        and not torch.compiler.is_exporting()
        and _is_recent(input.device.index)
    )


@torch.compiler.assume_constant_result
def _is_recent(index: int) -> bool:
    return torch.version.cuda is not None and torch.cuda.get_device_capability(index) >= (8, 0)


def deform_conv2d_fused(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    """Compute ``src.ops.deform_conv.deform_conv2d`` with one weight group, for tensors that ``fits`` accepts.

    Positions and interpolation are float32. Products have the dtype of the weight (or of autocast) and are summed in
    float32. float32 products run in TF32 if ``torch.backends.cuda.matmul.allow_tf32`` or its newer form
    ``fp32_precision`` allows it, and otherwise as three TF32 products (3xTF32) with the accuracy of float32.

    Only the gradient of the input, a sum by atomic additions in float32, is not deterministic bit for bit. All other
    results are, for a given tile size; every process chooses it anew (``triton.autotune``).

    Second derivatives raise an error.

    Args:
        input: ``(B, C, H, W)``; converted to channels last if it has another memory format.
        offset: ``(B, 2 * G * K, P, Q)`` in pixels.
        weight: ``(M, C, kh, kw)``.
        bias: ``(M,)`` or none.
        stride: of each axis (y, x).
        padding: of each axis.
        dilation: of each axis.
        mask: ``(B, G * K, P, Q)`` or none.

    Returns:
        ``(B, M, P, Q)``, channels-last in memory if the input is.
    """
    if torch.is_autocast_enabled(input.device.type):
        low = torch.get_autocast_dtype(input.device.type)
        input, weight = input.to(low), weight.to(low)
    return _fused(input, offset, weight, bias, list(stride), list(padding), list(dilation), mask)


# Triton's recompilation for sizes of 1 or multiples of 16 gains nothing here.
_SIZES = ["B", "H", "W", "outputs", "columns", "size"]


# The kernels. Tensors come with their strides, a tuple (image, channel, pixel), so that offsets, masks and results stay
# in their memory format, channels first or last. Values that may exceed 2^31 in a large image are int64. --------------


@triton.jit
def _positions(offset, offset_strides, mask, mask_strides, image, pixel, group, tap, outputs, columns,
               G: tl.constexpr, K: tl.constexpr, KW: tl.constexpr, STEP: tl.constexpr):  # fmt: skip
    """Compute the positions of a tap: the pixel above and left, the fraction from it, mask, validity: (N, g)."""
    exists = (pixel < outputs)[:, None] & (group < G)[None, :]
    plane = (group * K + tap).to(tl.int64)[None, :]  # the channel of the mask; offsets have two channels for each
    at = offset + image * offset_strides[0] + pixel.to(tl.int64)[:, None] * offset_strides[2]
    dy = tl.load(at + 2 * plane * offset_strides[1], exists, 0.0).to(tl.float32)
    dx = tl.load(at + (2 * plane + 1) * offset_strides[1], exists, 0.0).to(tl.float32)
    # float32 has no fractions beyond 2^24 pixels, and int32 would overflow far beyond. NaN compares false, and stays.
    dy = tl.where(dy > 16777216.0, 16777216.0, tl.where(dy < -16777216.0, -16777216.0, dy))
    dx = tl.where(dx > 16777216.0, 16777216.0, tl.where(dx < -16777216.0, -16777216.0, dx))
    # Adding whole pixels as integers keeps samples precise far from the origin.
    y = (pixel // columns * STEP[0] - STEP[2] + tap // KW * STEP[4])[:, None] + tl.floor(dy).to(tl.int32)
    x = (pixel % columns * STEP[1] - STEP[3] + tap % KW * STEP[5])[:, None] + tl.floor(dx).to(tl.int32)
    if mask is None:
        factor = tl.where(exists, 1.0, 0.0)
    else:
        at = mask + image * mask_strides[0] + pixel.to(tl.int64)[:, None] * mask_strides[2]
        factor = tl.load(at + plane * mask_strides[1], exists, 0.0).to(tl.float32)
    return y, x, dy - tl.floor(dy), dx - tl.floor(dx), factor, exists


@triton.jit
def _inside(y, x, exists, owned, H, W):
    """Mask the pixels inside the image: (N, g, c)."""
    return (exists & (y >= 0) & (y < H) & (x >= 0) & (x < W))[:, :, None] & owned[None, :, :]


@triton.jit
def _channels(block, C: tl.constexpr, G: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return the offset groups of a block, its channels, and the mask of existing ones."""
    blocks: tl.constexpr = (C // G + BLOCK_C - 1) // BLOCK_C
    group = block // blocks * BLOCK_G + tl.arange(0, BLOCK_G)
    within = block % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    channel = group[:, None] * (C // G) + within[None, :]
    return group, channel, (group < G)[:, None] & (within < C // G)[None, :]


@triton.jit(do_not_specialize=_SIZES)
def _forward(
    input, offset, mask, weight, bias, output, offset_strides, mask_strides, output_strides,
    B, H, W, outputs, columns, size,
    C: tl.constexpr, M: tl.constexpr, G: tl.constexpr, K: tl.constexpr, KW: tl.constexpr, STEP: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Compute BLOCK_M output channels of one tile of pixels, over all taps and channels."""
    tiles = tl.cdiv(outputs, BLOCK_N)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    pixel = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(K * BLOCKS):
        tap = step // BLOCKS
        group, channel, owned = _channels(step % BLOCKS, C, G, BLOCK_G, BLOCK_C)
        y, x, fy, fx, factor, exists = _positions(
            offset, offset_strides, mask, mask_strides, image, pixel, group, tap, outputs, columns, G, K, KW, STEP
        )
        near = input + (((image * H + y) * W + x) * C)[:, :, None] + channel[None, :, :]
        sampled = tl.zeros((BLOCK_N, BLOCK_G, BLOCK_C), tl.float32)
        for corner in tl.static_range(4):
            near_y = fy if corner // 2 else 1 - fy
            near_x = fx if corner % 2 else 1 - fx
            inside = _inside(y + corner // 2, x + corner % 2, exists, owned, H, W)
            value = tl.load(near + (corner // 2 * W + corner % 2) * C, inside, 0.0).to(tl.float32)
            sampled += value * (near_y * near_x * factor)[:, :, None]
        column, kept = channel.reshape(BLOCK_G * BLOCK_C)[None, :], owned.reshape(BLOCK_G * BLOCK_C)[None, :]
        kernel = tl.load(weight + (tap * M + m[:, None]) * C + column, (m < M)[:, None] & kept, 0.0)
        sampled = sampled.reshape(BLOCK_N, BLOCK_G * BLOCK_C).to(kernel.dtype)
        total = tl.dot(kernel, tl.trans(sampled), total, input_precision=PRECISION)
    if bias is not None:
        total += tl.load(bias + m, m < M, 0.0).to(tl.float32)[:, None]
    at = output + image * output_strides[0] + m.to(tl.int64)[:, None] * output_strides[1]
    at += pixel.to(tl.int64)[None, :] * output_strides[2]
    tl.store(at, total.to(output.dtype.element_ty), (m < M)[:, None] & (pixel < outputs)[None, :])


@triton.jit(do_not_specialize=_SIZES)
def _backward(
    input, offset, mask, weight, grad, grad_input, grad_offset, grad_mask, grad_weight,
    offset_strides, mask_strides, grad_strides, grad_offset_strides, grad_mask_strides,
    B, H, W, outputs, columns, size,
    C: tl.constexpr, M: tl.constexpr, G: tl.constexpr, K: tl.constexpr, KW: tl.constexpr, STEP: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Compute gradients for one tap, one block of channels and BLOCK_M outputs, over a share of all tiles of pixels.

    Every gradient is a sum over outputs. Blocks of outputs add up in ``grad_input``, and are layers of the others.
    """
    tap, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    group, channel, owned = _channels(block, C, G, BLOCK_G, BLOCK_C)
    m = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    column, kept = channel.reshape(BLOCK_G * BLOCK_C)[None, :], owned.reshape(BLOCK_G * BLOCK_C)[None, :]
    at_weight, kept = (tap * M + m[:, None]) * C + column, (m < M)[:, None] & kept
    kernel = tl.load(weight + at_weight, kept, 0.0)
    total = tl.zeros((BLOCK_M, BLOCK_G * BLOCK_C), tl.float32)
    # If a group spans several blocks, each block writes its own layer of the offsets' gradients.
    layer = block % ((C // G + BLOCK_C - 1) // BLOCK_C) * tl.num_programs(2) + tl.program_id(2)
    plane = (group * K + tap).to(tl.int64)[None, :]

    tiles = tl.cdiv(outputs, BLOCK_N)
    for tile in range(tl.program_id(1), B * tiles, tl.num_programs(1)):
        image = (tile // tiles).to(tl.int64)
        pixel = tile % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
        y, x, fy, fx, factor, exists = _positions(
            offset, offset_strides, mask, mask_strides, image, pixel, group, tap, outputs, columns, G, K, KW, STEP
        )
        at = grad + image * grad_strides[0] + pixel.to(tl.int64)[:, None] * grad_strides[2]
        at += m.to(tl.int64)[None, :] * grad_strides[1]
        above = tl.load(at, (pixel < outputs)[:, None] & (m < M)[None, :], 0.0).to(kernel.dtype)  # (N, M)
        grad_column = tl.dot(above, kernel, input_precision=PRECISION)
        grad_column = grad_column.reshape(BLOCK_N, BLOCK_G, BLOCK_C)

        near = (((image * H + y) * W + x) * C)[:, :, None] + channel[None, :, :]
        sampled = tl.zeros((BLOCK_N, BLOCK_G, BLOCK_C), tl.float32)
        grad_y = tl.zeros((BLOCK_N, BLOCK_G), tl.float32)
        grad_x = tl.zeros((BLOCK_N, BLOCK_G), tl.float32)
        grad_factor = tl.zeros((BLOCK_N, BLOCK_G), tl.float32)
        for corner in tl.static_range(4):
            near_y = fy if corner // 2 else 1 - fy
            near_x = fx if corner % 2 else 1 - fx
            inside = _inside(y + corner // 2, x + corner % 2, exists, owned, H, W)
            here = near + (corner // 2 * W + corner % 2) * C
            value = tl.load(input + here, inside, 0.0).to(tl.float32)
            weighted = grad_column * (near_y * near_x * factor)[:, :, None]
            tl.atomic_add(grad_input + here, weighted, inside, sem="relaxed")
            sampled += value * (near_y * near_x * factor)[:, :, None]
            along = tl.sum(grad_column * value, 2)
            grad_y += along * near_x if corner // 2 else -along * near_x
            grad_x += along * near_y if corner % 2 else -along * near_y
            grad_factor += along * near_y * near_x
        sampled = sampled.reshape(BLOCK_N, BLOCK_G * BLOCK_C).to(kernel.dtype)
        total = tl.dot(tl.trans(above), sampled, total, input_precision=PRECISION)

        image += layer * B
        at = grad_offset + image * grad_offset_strides[0] + pixel.to(tl.int64)[:, None] * grad_offset_strides[2]
        tl.store(at + 2 * plane * grad_offset_strides[1], (grad_y * factor).to(grad_offset.dtype.element_ty), exists)
        at += (2 * plane + 1) * grad_offset_strides[1]
        tl.store(at, (grad_x * factor).to(grad_offset.dtype.element_ty), exists)
        if grad_mask is not None:
            at = grad_mask + image * grad_mask_strides[0] + pixel.to(tl.int64)[:, None] * grad_mask_strides[2]
            at += plane * grad_mask_strides[1]
            tl.store(at, grad_factor.to(grad_mask.dtype.element_ty), exists)
    tl.store(grad_weight + tl.program_id(1) * (K * C * M) + at_weight, total, kept)


def _tuned(kernel: Any, sums_into: list[str], configs: list[tuple[int, int, int]]) -> Any:
    """Autotune the tile of a kernel for its channels, taps, dtype and (by powers of 4) number of pixels.

    ``configs``: pixels of a tile, warps, and stages (depth of prefetching).
    """
    if triton.knobs.runtime.interpret:  # nothing to time: the largest tile has the fewest programs
        configs = configs[-1:]
    tiles = [triton.Config({"BLOCK_N": n}, num_warps=warps, num_stages=stages) for n, warps, stages in configs]
    return triton.autotune(tiles, ["C", "M", "G", "K", "PRECISION", "size"], reset_to_zero=sums_into)(kernel)


# Small tiles let a small image occupy the whole device; large ones reuse a weight for more pixels. More warps divide a
# tile into fewer registers each. With 128 channels all tiles fit the registers of an H100 in bfloat16; in float32 the
# larger tiles of the backward pass spill a little.
_FORWARD = _tuned(_forward, [], [(32, 4, 1), (32, 4, 2), (64, 4, 1), (64, 4, 2), (64, 8, 1), (64, 8, 2), (128, 8, 1)])
_BACKWARD = _tuned(_backward, ["grad_input"], [(32, 4, 1), (32, 4, 2), (32, 8, 1), (64, 4, 1), (64, 8, 1), (64, 8, 2)])


# Around the kernels --------------------------------------------------------------------------------------------------


@torch.library.custom_op("zeitlupe::deform_conv2d_fused", mutates_args=())
def _fused(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    mask: Tensor | None,
) -> Tensor:
    output = _fake_fused(input, offset, weight, bias, stride, padding, dilation, mask)
    if output.numel() == 0:
        return output
    sizes = _sizes(input, offset, weight, stride, padding, dilation)
    offset, mask = _rows_in_line(offset), None if mask is None else _rows_in_line(mask)

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return len(input) * triton.cdiv(sizes["outputs"], meta["BLOCK_N"]), triton.cdiv(sizes["M"], meta["BLOCK_M"])

    with torch.cuda.device_of(input):
        _FORWARD[grid](
            _channels_last(input), offset, mask, _by_tap(weight), bias, output,
            _strides(offset), _strides(mask), _strides(output), **sizes,
        )  # fmt: skip
    return output


@_fused.register_fake
def _fake_fused(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    mask: Tensor | None,
) -> Tensor:
    shape = (input.shape[0], weight.shape[0], *offset.shape[2:])
    return torch.empty(shape, dtype=weight.dtype, device=input.device, memory_format=_layout(input))


@torch.library.custom_op("zeitlupe::deform_conv2d_fused_backward", mutates_args=())
def _fused_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of input, offset, weight and mask; without a mask the last is empty."""
    if grad.numel() == 0:
        fake = _fake_fused_backward(grad, input, offset, weight, stride, padding, dilation, mask)
        return fake[0].zero_(), fake[1], fake[2].zero_(), fake[3]
    sizes = _sizes(input, offset, weight, stride, padding, dilation)
    (B, C, H, W), M, K = input.shape, sizes["M"], sizes["K"]
    offset, mask = _rows_in_line(offset), None if mask is None else _rows_in_line(mask)
    grad = _rows_in_line(grad)
    outer = triton.cdiv(M, sizes["BLOCK_M"])
    layers = triton.cdiv(C // sizes["G"], sizes["BLOCK_C"]) * outer
    share = max(1, min(_PROGRAMS // (K * sizes["BLOCKS"] * outer), B * triton.cdiv(sizes["outputs"], 32)))

    def layered(like: Tensor) -> Tensor:
        dtype = like.dtype if layers == 1 else torch.float32
        shape = (layers * B, *like.shape[1:])
        return torch.empty(shape, dtype=dtype, device=like.device, memory_format=_layout(like))

    def added(grads: Tensor, like: Tensor) -> Tensor:
        if layers > 1:
            grads = grads.unflatten(0, (layers, B)).sum(0)
        return grads.to(like.dtype).contiguous(memory_format=_layout(like))

    grad_input = torch.zeros((B, H, W, C), dtype=torch.float32, device=input.device)
    grad_offset, grad_mask = layered(offset), None if mask is None else layered(mask)
    grad_weight = torch.empty((share, K, M, C), dtype=torch.float32, device=input.device)
    with torch.cuda.device_of(input):
        _BACKWARD[K * sizes["BLOCKS"], share, outer](
            _channels_last(input), offset, mask, _by_tap(weight), grad,
            grad_input, grad_offset, grad_mask, grad_weight,
            *(_strides(tensor) for tensor in (offset, mask, grad, grad_offset, grad_mask)), **sizes,
        )  # fmt: skip
    return (
        grad_input.permute(0, 3, 1, 2).to(input.dtype).contiguous(memory_format=_layout(input)),
        added(grad_offset, offset),
        grad_weight.sum(0).permute(1, 2, 0).reshape(weight.shape).to(weight.dtype),
        offset.new_empty(0) if mask is None or grad_mask is None else added(grad_mask, mask),
    )


@_fused_backward.register_fake
def _fake_fused_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def empty(like: Tensor) -> Tensor:
        return torch.empty(like.shape, dtype=like.dtype, device=like.device, memory_format=_layout(like))

    grad_weight = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    return empty(input), empty(offset), grad_weight, offset.new_empty(0) if mask is None else empty(mask)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, offset, weight, bias, *ctx.how, mask = inputs
    ctx.save_for_backward(input, offset, weight, mask)
    ctx.bias = None if bias is None else bias.dtype


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, offset, weight, mask = ctx.saved_tensors
    of_input, of_offset, of_weight, of_mask = _fused_backward(grad, input, offset, weight, *ctx.how, mask)
    of_bias = None if ctx.bias is None else grad.sum((0, 2, 3), dtype=torch.float32).to(ctx.bias)
    return of_input, of_offset, of_weight, of_bias, None, None, None, None if mask is None else of_mask


_fused.register_autograd(_differentiate, setup_context=_save)


@register_flop_formula(torch.ops.zeitlupe.deform_conv2d_fused)
def _flops(input: Any, offset: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Count two operations for each multiply-add of the product with the weight, as for the PyTorch implementation."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _sizes(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> dict[str, Any]:
    """Compute the sizes and constants of both kernels."""
    (B, C, H, W), (M, _, kh, kw), (P, Q) = input.shape, weight.shape, offset.shape[2:]
    G = offset.shape[1] // (2 * kh * kw)
    # Matrix products need at least 16 columns. Above 32, registers limit the programs on a multiprocessor to too few to
    # hide memory latency.
    block_c = min(32, triton.next_power_of_2(C // G))
    block_g = max(16 // block_c, min(32 // block_c, triton.next_power_of_2(G)))
    exact = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"
    return {
        "B": B, "H": H, "W": W, "outputs": P * Q, "columns": Q, "size": (B * P * Q).bit_length() // 2,
        "C": C, "M": M, "G": G, "K": kh * kw, "KW": kw, "STEP": (*stride, *padding, *dilation),
        "BLOCKS": triton.cdiv(G, block_g) * triton.cdiv(C // G, block_c), "BLOCK_G": block_g, "BLOCK_C": block_c,
        "BLOCK_M": min(128, max(16, triton.next_power_of_2(M))), "PRECISION": exact,
    }  # fmt: skip


def _layout(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.stride(1) == 1 else torch.contiguous_format


def _rows_in_line(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy with contiguous rows of pixels; a view of some channels needs no copy."""
    P, Q = tensor.shape[2:]
    in_line = P == 1 or Q == 1 or tensor.stride(2) == Q * tensor.stride(3)
    return tensor if in_line else tensor.contiguous(memory_format=_layout(tensor))


def _strides(tensor: Tensor | None) -> tuple[int, int, int]:
    """Return the strides of image, channel and pixel."""
    if tensor is None:
        return 0, 0, 0
    return tensor.stride(0), tensor.stride(1), tensor.stride(3 if tensor.shape[3] > 1 else 2)


def _channels_last(input: Tensor) -> Tensor:
    return input.permute(0, 2, 3, 1).contiguous()


def _by_tap(weight: Tensor) -> Tensor:
    """Reorder a weight ``(M, C, kh, kw)`` to ``(K, M, C)``."""
    return weight.flatten(2).permute(2, 0, 1).contiguous()
