"""Map a network's output times to seconds of the output video."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from src.geometry import Geometry

STEADY = Fraction(2, 1000)  # seconds that a frame may be off its place in a steady rate: containers round to 1 ms
FINE = Fraction(1, 90000)  # seconds that times are rounded to without a steady rate


class OutputTiming(NamedTuple):
    """The time base of an output video.

    Attributes:
        fps: frames a second; the mean if they are not evenly spaced.
        stretch: its duration over that of the input.
        lag: input frames by which an output is shown before its time: an exposure is shown from its beginning.
    """

    fps: Fraction
    stretch: Fraction
    lag: Fraction

    @classmethod
    def of(cls, geometry: Geometry, fps: Fraction, slow_motion: bool) -> OutputTiming:
        """Return the timing of the output of ``fps`` input frames a second."""
        lag = geometry.exposures[0] / 2 if geometry.exposures else Fraction(0)
        if slow_motion:
            return cls(fps, 1 / geometry.spacing, lag)
        return cls(fps / geometry.spacing, Fraction(1), lag)


class TimeMap:
    """A map from output times, in input frames, to seconds since the first frame.

    Args:
        times: of the input frames, in seconds.
        end: of the last frame, in seconds.
        fps: of the input.
    """

    def __init__(self, times: Sequence[Fraction], end: Fraction, fps: Fraction) -> None:
        self.fps = fps
        self._marks = [time - times[0] for time in (*times, end)]
        self.steady = all(abs(mark - number / fps) <= STEADY for number, mark in enumerate(self._marks[:-1]))

    def __call__(self, time: Fraction) -> Fraction:
        if self.steady:
            return time / self.fps
        below = min(max(0, int(time // 1)), len(self._marks) - 2)
        return self._marks[below] + (time - below) * (self._marks[below + 1] - self._marks[below])
