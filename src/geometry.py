"""Which input frames make which output frames, and at what scale.

Time is counted in input frames: input frame ``i`` of a video lies at time ``i``. Fractions keep it exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction


@dataclass(frozen=True)
class Geometry:
    """What a network does to time and space.

    Everything that must agree on it derives from it: sampling of training clips, streaming over a whole
    video, evaluation, and the frame rate of what is written.

    Args:
        scale: factor by which height and width grow.
        window: input frames of one pass.
        times: where each output frame lies, in input frames from the window's first, ascending.
        stride: by how many input frames the window moves on.
        elastic: whether the network also takes windows of other lengths (recurrent and convolutional-in-time
            networks do), so that :meth:`lengthened` may be used.

    Examples:
        EDVR with five frames is ``Geometry(4, 5, (2,), 1)``; Zooming SlowMo, four frames in and seven out, is
        ``Geometry(4, 4, (0, 1/2, 1, 3/2, 2, 5/2, 3), 3)``.
    """

    scale: int
    window: int
    times: tuple[Fraction, ...]
    stride: int = 1
    elastic: bool = False

    def __post_init__(self) -> None:
        times = tuple(Fraction(t) for t in self.times)
        if not times or list(times) != sorted(set(times)):
            raise ValueError(f"output times must ascend, got {self.times}")
        if min(self.scale, self.window, self.stride) < 1:
            raise ValueError(f"scale, window and stride must be at least 1, got {self}")
        object.__setattr__(self, "times", times)

    @property
    def lead(self) -> int:
        """Frames that a window needs before the first frame of the video, so that an output lies on it."""
        return max(0, math.ceil(self.times[0]))

    @property
    def trail(self) -> int:
        """Frames that a window needs behind the last frame of the video."""
        return max(0, self.window - 1 - math.floor(self.times[-1]))

    @property
    def spacing(self) -> Fraction:
        """Distance between output frames of the whole video, in input frames (1/2 doubles the frame rate)."""
        moments = sorted({t % self.stride for t in self.times})
        return Fraction(self.stride, len(moments))

    @property
    def subdivision(self) -> int:
        """The least number of equal steps between two input frames such that every output lies on one."""
        return math.lcm(*(t.denominator for t in self.times))

    def output_times(self, frames: int) -> list[Fraction]:
        """Where the output frames of a video of ``frames`` input frames lie, each once, ascending."""
        first, last = self.span(frames)
        count = math.floor((last - first) / self.spacing) + 1
        return [first + k * self.spacing for k in range(count)]

    def span(self, frames: int) -> tuple[Fraction, Fraction]:
        """Earliest and latest time that an output of a video of ``frames`` input frames may have."""
        before = self.times[0] - self.lead  # negative where an output precedes the centre of the first frame
        after = self.times[-1] - math.floor(self.times[-1]) if self.times[0] % 1 else Fraction(0)
        return before, frames - 1 + after

    def lengthened(self, outputs: int) -> Geometry:
        """The same network on a window that gives ``outputs`` output frames.

        Raises:
            ValueError: the network's window is fixed, or no whole number of input frames gives so many outputs.
        """
        if outputs == len(self.times):
            return self
        step = self.spacing
        window = (outputs - 1) * step + 1
        if not self.elastic or window.denominator != 1 or outputs < 1:
            raise ValueError(f"a network of window {self.window} cannot give {outputs} frames a pass")
        context, first = self.lead + self.trail, self.times[0]
        times = tuple(first + k * step for k in range(outputs))
        shared = 1 if step.denominator > 1 else 0  # neighbouring windows share the frame between them
        return replace(self, window=int(window) + context, times=times, stride=max(1, int(window) - shared))

    def padded(self, frames: int) -> Geometry:
        """The same outputs from a window with ``frames`` input frames of context before and behind them."""
        times = tuple(t - self.lead + frames for t in self.times)
        return replace(self, window=self.window - self.lead - self.trail + 2 * frames, times=times)


def evenly(first: Fraction | int, step: Fraction | int | str, count: int) -> tuple[Fraction, ...]:
    """``count`` times from ``first`` on, ``step`` apart."""
    return tuple(Fraction(first) + k * Fraction(step) for k in range(count))
