"""A picture of a restored frame between its interpolation and the original."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from src.atomic import atomic_write
from src.engine.stream import stream
from src.nn.video_network import as_video_network

SIDE, GAP, GRID = 192, 4, 16  # pixels: of a crop, between crops, between places tried
LARGEST = 100_000  # bytes


def draw_before_after(path: Path, network: nn.Module, baseline: nn.Module, clip: Any) -> Fraction:
    """Write crops of one frame as a JPEG, side by side: by the baseline, by the network, and the original.

    The frame is that in the middle of the clip's first window; of a network that adds frames, an added one. The crop
    is where the original has most detail.

    Args:
        path: the file.
        network: on the CPU.
        baseline: :class:`src.papers.baselines.Interpolation` for it.
        clip: :class:`src.data.evaluation.EvaluationClip`.

    Returns:
        The time of the frame, in input frames.
    """
    geometry = as_video_network(network).geometry
    inputs = list(islice(clip.inputs(), geometry.window))
    targets = dict(takewhile(lambda item: item[0] <= len(inputs), clip.targets(geometry)))
    versions = [dict(stream(one, inputs)) for one in (baseline, network)] + [targets]
    middle = (geometry.times[0] + geometry.times[-1]) / 2
    adds = geometry.spacing < 1 and not geometry.exposures
    times = set.intersection(*(set(version) for version in versions))
    time = min(times, key=lambda time: (adds and time.denominator == 1, abs(time - middle), time))
    frames = [version[time] for version in versions]
    top, left, side = _find_detail(frames[-1])
    crops = [frame[:, top : top + side, left : left + side].clamp(0, 1) for frame in frames]
    gap = torch.ones(3, side, GAP)
    _write_jpeg(path, torch.cat([crops[0], gap, crops[1], gap, crops[2]], dim=-1))
    return time


def _find_detail(frame: Tensor) -> tuple[int, int, int]:
    """Return top, left and side of the square with the largest differences between neighbouring pixels."""
    height, width = frame.shape[-2:]
    side = min(SIDE, height, width)
    across, down = frame.diff(dim=-1).abs()[:, 1:], frame.diff(dim=-2).abs()[..., 1:]
    detail = (across + down).mean(0, keepdim=True)
    kernel = max(1, side - 1)
    score = F.avg_pool2d(detail, kernel, GRID)[0]
    place = int(score.argmax())
    return place // score.shape[1] * GRID, place % score.shape[1] * GRID, side


def _write_jpeg(path: Path, picture: Tensor) -> None:
    image = Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
    for quality in range(95, 20, -5):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
        if buffer.tell() < LARGEST:
            break
    with atomic_write(path, "wb") as stream:
        stream.write(buffer.getvalue())
