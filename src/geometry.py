"""Geometry of a network: the times of output frames relative to input frames, and the scale.

The unit of time is one input frame: input frame ``i`` of a video lies at time ``i``; for networks that restore
exposures, which have a duration, it lasts from time ``i`` to ``i + 1``. Fractions keep times exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce

MOST_ROUNDS = 4  # recursive applications: 16 output frames per input frame, the maximum in VTSR's thesis


@dataclass(frozen=True)
class Geometry:
    """Mapping of a network from input frames to output frames, in time and space.

    Sampling of training clips, streaming over a whole video, evaluation and the output frame rate derive from it.

    Args:
        scale: factor on height and width.
        window: input frames of one pass.
        times: time of each output frame, in input frames from the first of the window, ascending.
        stride: input frames from one window to the next.
        exposures: exposure time of each output frame, in input frames, for inputs exposed until the next frame
            begins; an output at ``t`` is the mean of the light from ``t - exposure / 2`` to ``t + exposure / 2``.
            None: frames are instants.
        elastic: accept windows of other lengths through :meth:`lengthened`, as recurrent and temporally convolutional
            networks do.
        inner: the outputs of windows that lie within the video: the time of the first, the time from the last to input
            frame N, the first behind a video of N, and the least N. None: those of a single window.

    Raises:
        ValueError: times do not ascend, a number is below 1, or exposures are not positive or not one per output.

    Examples:
        EDVR with five frames is ``Geometry(4, 5, (2,), 1)``. Zooming SlowMo, from four frames to seven, is
        ``Geometry(4, 4, (0, 1/2, 1, 3/2, 2, 5/2, 3), 3)``. VTSR, the second half of one exposure and the first of the
        next, is ``Geometry(1, 2, (3/4, 5/4), exposures=(1/2, 1/2))``.
    """

    scale: int
    window: int
    times: tuple[Fraction, ...]
    stride: int = 1
    elastic: bool = False
    exposures: tuple[Fraction, ...] | None = None
    inner: tuple[Fraction, Fraction, int] | None = None

    def __post_init__(self) -> None:
        times = tuple(Fraction(t) for t in self.times)
        if not times or list(times) != sorted(set(times)):
            raise ValueError(f"output times must ascend, got {self.times}")
        if min(self.scale, self.window, self.stride) < 1:
            raise ValueError(f"scale, window and stride must be at least 1, got {self}")
        if self.exposures is not None and len(self.exposures) != len(times):
            raise ValueError(f"each of the {len(times)} outputs needs an exposure, got {self.exposures}")
        if self.exposures and min(self.exposures) <= 0:
            raise ValueError(f"exposures must be positive, got {self.exposures}")
        object.__setattr__(self, "times", times)
        if self.inner == self._single_window:
            object.__setattr__(self, "inner", None)

    @property
    def _single_window(self) -> tuple[Fraction, Fraction, int]:
        return self.times[0], self.window - self.times[-1], self.window

    @property
    def inner_outputs(self) -> tuple[Fraction, Fraction, int]:
        """The value of ``inner``, or that of a single window."""
        return self.inner or self._single_window

    @property
    def lead(self) -> int:
        """Frames of context before the first frame of a video, for an output at that frame."""
        return max(0, math.ceil(self.times[0]))

    @property
    def trail(self) -> int:
        """Frames of context behind the last frame of a video."""
        end = 1 if self.exposures else 0  # duration of the last frame
        return max(0, self.window - 1 + end - math.floor(self.times[-1]))

    @property
    def spacing(self) -> Fraction:
        """Distance between output frames of the whole video, in input frames (1/2 doubles the frame rate)."""
        phases = {t % self.stride for t in self.times}
        return Fraction(self.stride, len(phases))

    @property
    def subdivision(self) -> int:
        """Least number of equal steps between input frames on which all outputs (or their exposures' ends) fall."""
        return math.lcm(*(edge.denominator for k in range(len(self.times)) for edge in self.interval(k)))

    def interval(self, output: int) -> tuple[Fraction, Fraction]:
        """Return begin and end of the exposure of an output; both are its time for an instant."""
        time, exposure = self.times[output], self.exposures[output] if self.exposures else Fraction(0)
        return time - exposure / 2, time + exposure / 2

    def output_times(self, frames: int, *, filled: bool = True) -> list[Fraction]:
        """List the times of the output frames of a video of ``frames`` input frames, ascending, without duplicates.

        ``filled=False``: only those that windows within the video make; empty if it is shorter than a window.
        """
        first, last = self.span(frames, filled=filled)
        count = math.floor((last - first) / self.spacing) + 1
        return [first + k * self.spacing for k in range(count)]

    def span(self, frames: int, *, filled: bool = True) -> tuple[Fraction, Fraction]:
        """Return the times of the first and the last output of a video of ``frames`` input frames.

        ``filled=False``: of windows within the video, none of which is filled up beyond its ends. The last is earlier
        than the first if there is no such window.
        """
        if not filled:
            first, rest, least = self.inner_outputs
            return first, frames - rest if frames >= least else first - self.spacing
        if self.exposures:
            first = self.times[0] % self.spacing  # its exposure begins with the video
            return first, frames - self.spacing + first
        if self.times[0] % self.spacing == 0:  # outputs on input frames include the first and the last
            return Fraction(0), Fraction(frames - 1)
        before = self.times[0] - self.lead  # negative for an output before the first input frame
        after = self.times[-1] - math.floor(self.times[-1]) if self.times[0] % 1 else Fraction(0)
        return before, frames - 1 + after

    def lengthened(self, outputs: int) -> Geometry:
        """Return the geometry of the same network on a window with ``outputs`` output frames.

        Raises:
            ValueError: the window is fixed, or no whole number of input frames results in that number of outputs.
        """
        if outputs == len(self.times):
            return self
        step = self.spacing
        window = (outputs - 1) * step + 1
        shared = 1 if step.denominator > 1 else 0  # neighbouring windows share the frame between them
        if not self.elastic or window.denominator != 1 or window <= shared:  # such windows would leave gaps
            raise ValueError(f"a network with a window of {self.window} frames cannot output {outputs} frames per pass")
        context, first = self.lead + self.trail, self.times[0]
        times = tuple(first + k * step for k in range(outputs))
        return replace(self, window=int(window) + context, times=times, stride=int(window) - shared)

    def padded(self, frames: int) -> Geometry:
        """Return the geometry of the same outputs, with ``frames`` input frames of context before and behind them."""
        times = tuple(t - self.lead + frames for t in self.times)
        return replace(self, window=self.window - self.lead - self.trail + 2 * frames, times=times)

    def then(self, second: Geometry) -> Geometry:
        """Return the geometry of this network followed by ``second``; its stride is a whole number of input frames."""
        step = self.spacing
        rounds = (step * second.stride).denominator  # windows of the second per such stride
        needed = second.window + (rounds - 1) * second.stride
        window, count = self.window, len(self.times)
        while count < needed:
            count += len([time for time in self.times if time + self.stride > self.times[-1]])
            window += self.stride
        start, lengths = self.times[0], [self.exposures[0]] * len(second.times) if self.exposures else []
        if second.exposures:
            start, lengths = self.interval(0)[0], [step * exposure for exposure in second.exposures]
        outputs = {k * second.stride + time: n for k in range(rounds) for n, time in enumerate(second.times)}
        times = sorted(outputs)
        (begin, rest, least), (second_begin, second_rest, second_least) = self.inner_outputs, second.inner_outputs
        shift, least_for_second = start - self.times[0], begin + rest + step * (second_least - 1)
        inner_begin, inner_rest = begin + shift + step * second_begin, rest - shift - step * (1 - second_rest)
        return Geometry(
            self.scale * second.scale,
            window,
            tuple(start + step * time for time in times),
            int(step * second.stride * rounds),
            exposures=tuple(lengths[outputs[time]] for time in times) if lengths else None,
            inner=(inner_begin, inner_rest, max(least, math.ceil(least_for_second))),
        )

    def again(self, rounds: int) -> Geometry:
        """Return the geometry of the network applied recursively, ``rounds`` times in all."""
        return reduce(Geometry.then, [self] * rounds)

    def rounds(self, factor: int) -> int:
        """Return the number of recursive applications that multiply the number of frames by ``factor``.

        Raises:
            ValueError: ``factor`` is no power of the network's own factor, or the network enlarges.
        """
        if self.scale > 1:
            raise ValueError(f"the network upscales by {self.scale}, so it cannot be applied recursively")
        once = 1 / self.spacing
        rounds = round(math.log(factor, once)) if once > 1 and factor > 1 else 0
        if not 1 <= rounds <= MOST_ROUNDS or once**rounds != factor:
            powers = ", ".join(str(once**k) for k in range(1, MOST_ROUNDS + 1)) if once > 1 else "1 only"
            raise ValueError(f"the network multiplies frames by {once}, so the factor may be {powers}; got {factor}")
        return rounds


def evenly(first: Fraction | int | str, step: Fraction | int | str, count: int) -> tuple[Fraction, ...]:
    """Return ``count`` times from ``first`` on, ``step`` apart."""
    return tuple(Fraction(first) + k * Fraction(step) for k in range(count))
