"""Map a network's output times to seconds of the output video."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from src.geometry import Geometry

STEADY = Fraction(2, 1000)  # seconds that a frame may be off its place in a steady rate: containers round to 1 ms


FINE = Fraction(1, 90000)  # seconds that times are rounded to where there is no steady rate


class OutputTiming(NamedTuple):
    """What a network makes of a video's time.

    Attributes:
        fps: frames a second of the output; the mean where they are not evenly spaced.
        stretch: how much longer it lasts than the input.
        lag: by how much of an input frame an output is shown before its time: an exposure from where it begins.
    """

    fps: Fraction
    stretch: Fraction
    lag: Fraction

    @classmethod
    def of(cls, geometry: Geometry, fps: Fraction, slow_motion: bool) -> OutputTiming:
        """The pace of what is made of ``fps`` frames a second."""
        lag = geometry.exposures[0] / 2 if geometry.exposures else Fraction(0)
        if slow_motion:
            return cls(fps, 1 / geometry.spacing, lag)
        return cls(fps / geometry.spacing, Fraction(1), lag)


class TimeMap:
    """From output times, in input frames, to seconds since the first frame.

    Args:
        times: when input frames are shown, in seconds.
        end: when the last ends.
        fps: their rate.
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
