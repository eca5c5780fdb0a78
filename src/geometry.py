"""Which input frames make which output frames, and at what scale.

Time is counted in input frames: input frame ``i`` of a video lies at time ``i``; for networks that restore exposures,
which take time, it lasts from time ``i`` to ``i + 1``. Fractions keep it exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce

MOST_ROUNDS = 4  # of a network on its own output: 16 frames of one, as far as the thesis on VTSR goes


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
        exposures: how long each output frame is exposed, in input frames, where input frames are exposed until the
            next begins; an output at ``t`` is then the mean of what happens from ``t - exposure / 2`` to ``t +
            exposure / 2``. None: frames are instants.
        elastic: whether the network also takes windows of other lengths (recurrent and convolutional-in-time
            networks do), so that :meth:`lengthened` may be used.

    Examples:
        EDVR with five frames is ``Geometry(4, 5, (2,), 1)``; Zooming SlowMo, four frames in and seven out, is
        ``Geometry(4, 4, (0, 1/2, 1, 3/2, 2, 5/2, 3), 3)``; VTSR, the second half of one exposure and the first of the
        next, is ``Geometry(1, 2, (3/4, 5/4), exposures=(1/2, 1/2))``.
    """

    scale: int
    window: int
    times: tuple[Fraction, ...]
    stride: int = 1
    elastic: bool = False
    exposures: tuple[Fraction, ...] | None = None

    def __post_init__(self) -> None:
        times = tuple(Fraction(t) for t in self.times)
        if not times or list(times) != sorted(set(times)):
            raise ValueError(f"output times must ascend, got {self.times}")
        if min(self.scale, self.window, self.stride) < 1:
            raise ValueError(f"scale, window and stride must be at least 1, got {self}")
        if self.exposures is not None and len(self.exposures) != len(times):
            raise ValueError(f"each of the {len(times)} outputs needs an exposure, got {self.exposures}")
        if self.exposures and min(self.exposures) <= 0:
            raise ValueError(f"exposures take time, got {self.exposures}")
        object.__setattr__(self, "times", times)

    @property
    def lead(self) -> int:
        """Frames that a window needs before the first frame of the video, so that an output lies on it."""
        return max(0, math.ceil(self.times[0]))

    @property
    def trail(self) -> int:
        """Frames that a window needs behind the last frame of the video."""
        end = 1 if self.exposures else 0  # the last frame lasts so long
        return max(0, self.window - 1 + end - math.floor(self.times[-1]))

    @property
    def spacing(self) -> Fraction:
        """Distance between output frames of the whole video, in input frames (1/2 doubles the frame rate)."""
        moments = sorted({t % self.stride for t in self.times})
        return Fraction(self.stride, len(moments))

    @property
    def subdivision(self) -> int:
        """The least number of equal steps between two input frames such that every output lies on (or lasts) some."""
        return math.lcm(*(edge.denominator for k in range(len(self.times)) for edge in self.interval(k)))

    def interval(self, output: int) -> tuple[Fraction, Fraction]:
        """When the exposure of an output begins and ends; for an instant both are its time."""
        time, exposure = self.times[output], self.exposures[output] if self.exposures else Fraction(0)
        return time - exposure / 2, time + exposure / 2

    def output_times(self, frames: int) -> list[Fraction]:
        """Where the output frames of a video of ``frames`` input frames lie, each once, ascending."""
        first, last = self.span(frames)
        count = math.floor((last - first) / self.spacing) + 1
        return [first + k * self.spacing for k in range(count)]

    def span(self, frames: int) -> tuple[Fraction, Fraction]:
        """Earliest and latest time that an output of a video of ``frames`` input frames may have."""
        if self.exposures:
            first = self.times[0] % self.spacing  # begins with the video
            return first, frames - self.spacing + first
        if self.times[0] % self.spacing == 0:  # some lie on input frames, then also on the first and the last
            return Fraction(0), Fraction(frames - 1)
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
        shared = 1 if step.denominator > 1 else 0  # neighbouring windows share the frame between them
        if not self.elastic or window.denominator != 1 or window <= shared:  # which would leave out what lies between
            raise ValueError(f"a network of window {self.window} cannot give {outputs} frames a pass")
        context, first = self.lead + self.trail, self.times[0]
        times = tuple(first + k * step for k in range(outputs))
        return replace(self, window=int(window) + context, times=times, stride=int(window) - shared)

    def padded(self, frames: int) -> Geometry:
        """The same outputs from a window with ``frames`` input frames of context before and behind them."""
        times = tuple(t - self.lead + frames for t in self.times)
        return replace(self, window=self.window - self.lead - self.trail + 2 * frames, times=times)

    def then(self, second: Geometry) -> Geometry:
        """What this network and another behind it do together, which moves on by a whole number of input frames."""
        step = self.spacing
        rounds = (step * second.stride).denominator  # windows of the second until it has moved on so far
        needed = second.window + (rounds - 1) * second.stride
        window, count = self.window, len(self.times)
        while count < needed:
            count += len([time for time in self.times if time + self.stride > self.times[-1]])
            window += self.stride
        start, lengths = self.times[0], [self.exposures[0]] * len(second.times) if self.exposures else []
        if second.exposures:
            start, lengths = self.interval(0)[0], [step * exposure for exposure in second.exposures]
        numbers = {k * second.stride + time: n for k in range(rounds) for n, time in enumerate(second.times)}
        places = sorted(numbers)
        return Geometry(
            self.scale * second.scale,
            window,
            tuple(start + step * place for place in places),
            int(step * second.stride * rounds),
            exposures=tuple(lengths[numbers[place]] for place in places) if lengths else None,
        )

    def again(self, rounds: int) -> Geometry:
        """What the network does when it is applied to its own output, ``rounds`` times in all."""
        return reduce(Geometry.then, [self] * rounds)

    def rounds(self, factor: int) -> int:
        """How often the network is applied to its own output until ``factor`` frames have come of one.

        Raises:
            ValueError: no number of times gives so many, or the network enlarges.
        """
        if self.scale > 1:
            raise ValueError(f"the network enlarges its frames {self.scale} times, which is done once")
        once = 1 / self.spacing
        rounds = round(math.log(factor, once)) if once > 1 and factor > 1 else 0
        if not 1 <= rounds <= MOST_ROUNDS or once**rounds != factor:
            powers = ", ".join(str(once**k) for k in range(1, MOST_ROUNDS + 1)) if once > 1 else "1, so leave it out"
            raise ValueError(f"the network makes {once} frames of one, so the factor may be {powers}; got {factor}")
        return rounds


def evenly(first: Fraction | int | str, step: Fraction | int | str, count: int) -> tuple[Fraction, ...]:
    """``count`` times from ``first`` on, ``step`` apart."""
    return tuple(Fraction(first) + k * Fraction(step) for k in range(count))
