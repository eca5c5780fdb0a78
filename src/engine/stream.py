"""One way to run a network over a whole video, whatever its length: windows in, frames out, constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

import torch
from torch import Tensor, nn

from src.geometry import Geometry


def stream(
    network: nn.Module, frames: Iterable[Tensor], *, clip_length: int | None = None
) -> Iterator[tuple[Fraction, Tensor]]:
    """Restores a video frame by frame.

    Args:
        network: maps (1, T, 3, H, W) to (1, T', 3, s*H, s*W) as its ``geometry`` says.
        frames: the video's frames, (3, H, W) each, RGB in [0, 1]; read only as far as needed.
        clip_length: output frames of one pass, for networks that take windows of any length; by default the
            network's own.

    Yields:
        ``(time, frame)``, time in input frames, ascending, every output time of the video exactly once; the
        frame is (3, s*H, s*W) float32, not clamped.
    """
    geometry: Geometry = network.geometry  # type: ignore[assignment]
    if clip_length is not None:
        geometry = geometry.lengthened(clip_length)
    total = 0

    def counted() -> Iterator[Tensor]:
        nonlocal total
        for total, frame in enumerate(frames, start=1):  # noqa: B007 - the count is what is wanted
            yield frame

    last: Fraction | None = None
    for start, window in windows(counted(), geometry):
        with torch.inference_mode():
            restored = network(torch.stack(window).unsqueeze(0))[0].float()
        earliest, latest = geometry.span(total)
        for time, frame in zip((start + t for t in geometry.times), restored, strict=True):
            if earliest <= time <= latest and (last is None or time > last):
                last = time
                yield time, frame


def windows(frames: Iterable[Tensor], geometry: Geometry) -> Iterator[tuple[int, list[Tensor]]]:
    """Windows of ``geometry.window`` frames that together cover every output time of a video.

    The last window is moved back so that it ends with the video instead of being filled up.

    Yields:
        The number, in the video, of the window's first frame (negative for one before its start), and the frames.
    """
    held: deque[Tensor] = deque(maxlen=geometry.window)
    start, latest = 0, None
    for pushed, frame in enumerate(_extended(frames, geometry), start=1):
        held.append(frame)
        start = pushed - geometry.window
        if start >= 0 and start % geometry.stride == 0:
            latest = start
            yield start - geometry.lead, list(held)
    if held and start != latest:
        yield start - geometry.lead, list(held)


def _extended(frames: Iterable[Tensor], geometry: Geometry) -> Iterator[Tensor]:
    """The video with its first and last frame repeated where windows reach beyond it, and at least one window long."""
    length, frame = 0, None
    for frame in frames:
        for _ in range(1 + (geometry.lead if length == 0 else 0)):
            length += 1
            yield frame
    if frame is not None:
        for _ in range(max(geometry.trail, geometry.window - length)):
            yield frame
