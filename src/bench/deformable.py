"""Deformable convolutions beside plain ones and torchvision's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from src.bench.timing import CHANNELS, time_work
from src.errors import UserError
from src.nn.clips import to_fast_layout
from src.ops import deform_conv

GROUPS = 8  # deformable groups of EDVR-M, Zooming SlowMo and DSFN


def compare_operators(height: int, width: int, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """Time modulated deformable convolutions and plain ones of the same size.

    On a CUDA device, time bfloat16 and twice the channels, too, and torchvision's operator if it is installed.

    Returns:
        Rows: ``operator``, ``channels``, ``type``, and seconds ``forward`` and ``both`` (forward and backward).
    """
    cuda = device.type == "cuda"
    operators: dict[str, Callable[..., Tensor]] = {"convolution": _convolve, "deformable": deform_conv.deform_conv2d}
    if cuda:
        with suppress(UserError):
            operators["torchvision"] = import_torchvision()
    rows: list[dict[str, Any]] = []
    for channels in (CHANNELS, 2 * CHANNELS) if cuda else (CHANNELS,):
        for dtype in (torch.float32, torch.bfloat16) if cuda else (torch.float32,):
            shapes = [
                *((1, depth, height, width) for depth in (channels, 18 * GROUPS, 9 * GROUPS)),
                *((channels, channels, 3, 3), (channels, 1, 1, 1)),
            ]
            tensors = [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]
            for name, operator in operators.items():
                row = {"operator": name, "channels": channels, "type": str(dtype).removeprefix("torch.")}
                for column, backward in (("forward", False), ("both", True)):
                    with torch.set_grad_enabled(backward):
                        x, offset, mask, weight, bias = map(to_fast_layout, tensors)  # the layout of networks
                        mask = mask.sigmoid()
                        work: Callable[[], Any] = partial(
                            operator, x, offset, weight=weight, bias=bias.flatten(), mask=mask, padding=(1, 1)
                        )
                        if backward:
                            work = partial(_run_both_ways, work, x, offset, weight, mask)
                        row[column] = time_work(work, repeats, device).seconds
                rows.append(row)
    return rows


def _convolve(
    x: Tensor, offset: Tensor, *, weight: Tensor, bias: Tensor, mask: Tensor, padding: tuple[int, int]
) -> Tensor:
    """Plain convolution with the arguments of a deformable one."""
    return nn.functional.conv2d(x, weight, bias, padding=padding)


def _run_both_ways(work: Callable[[], Tensor], *leaves: Tensor) -> None:
    for leaf in leaves:
        leaf.requires_grad_()
    result = work()
    torch.autograd.grad(result, leaves, torch.ones_like(result), allow_unused=True)
    for leaf in leaves:
        leaf.requires_grad_(False)


def import_torchvision() -> Callable[..., Tensor]:
    """Return torchvision's ``deform_conv2d``.

    Raises:
        UserError: torchvision is not installed.
    """
    try:
        from torchvision.ops import deform_conv2d  # optional
    except (ImportError, RuntimeError) as error:
        raise UserError("bench.operator=torchvision needs a torchvision that matches the installed torch.") from error
    return deform_conv2d


@contextmanager
def replace_operator(operator: Callable[..., Tensor]) -> Iterator[None]:
    """Let all networks use another deformable convolution with the same signature."""
    ours = deform_conv.deform_conv2d
    modules = [module for name, module in sys.modules.items() if name.startswith("src.")]
    modules = [module for module in modules if getattr(module, "deform_conv2d", None) is ours]
    try:
        for module in modules:
            module.deform_conv2d = operator  # type: ignore[attr-defined]
        yield
    finally:
        for module in modules:
            module.deform_conv2d = ours  # type: ignore[attr-defined]
