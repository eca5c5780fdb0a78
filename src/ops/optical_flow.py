"""Dense optical flow, and frames in between that follow it. OpenCV computes the flow; it is imported at first use.

Shapes: frames are float32 arrays (H, W, 3), RGB in [0, 1]. Flows are (H, W, 2), x and y in pixels: from the place of a
pixel in one frame to that of its content in the other. All arrays are NumPy's, on the CPU. Results do not depend on the
number of threads.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from src.errors import UserError

Preset = Literal["ultrafast", "fast", "medium", "finest"]
LEAST_SIDE = 16  # pixels that DIS needs along a side: two patches of eight
WINDOW = 5  # side in pixels of the window in which frames are compared
SHARPNESS = 16.0  # 8-bit levels of disagreement at which a weight falls to 1/e
UNSEEN = 0.005  # weight of blending beside candidates: it fills what no flow reaches
GRID, ROUNDS, TOLERANCE = 8, 5, 0.5  # of the motion of the whole frame: spacing, iterations, and pixels of an inlier
LEAST_FOLLOWED = 0.25  # share of a frame that is seen in the other one, below which no motion is followed
UNEXPLAINED = 0.6  # share of the difference of two frames that remains along the flow, above which it is none
SPARSE = 3  # of as many rows and columns, one counts for a median
EXPOSURE = 0.1  # relative change of contrast, and of brightness, that is taken for one of exposure
CUT = 20.0  # mean difference in 8-bit levels of frames without common motion that do not show the same scene
FARTHEST = 4  # motion of more than a quarter of the frame is not followed


@cache
def load_opencv() -> Any:
    """Import OpenCV.

    Raises:
        UserError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "Optical flow needs OpenCV: pip install opencv-python-headless (or pip install -e '.[flow]')."
        ) from error
    cv2.setNumThreads(1)  # DIS depends on how rows are divided among threads
    return cv2


def to_grey(frame: np.ndarray) -> np.ndarray:
    """Convert a frame to the 8-bit grey that flow is computed on (H, W)."""
    levels = (frame * 255).clip(0, 255).round().astype(np.uint8)
    return load_opencv().cvtColor(levels, load_opencv().COLOR_RGB2GRAY)


def estimate_flow(before: np.ndarray, after: np.ndarray, preset: Preset = "medium") -> np.ndarray:
    """Estimate the motion from one 8-bit grey frame (H, W) to another, by dense inverse search.

    Kroeger et al., "Fast Optical Flow using Dense Inverse Search" (ECCV 2016). ``finest`` is the medium preset down to
    single pixels, which takes several times as long.
    """
    cv2 = load_opencv()
    height, width = before.shape
    short = [max(0, LEAST_SIDE - side) for side in (height, width)]
    if any(short):  # repeat the edges of frames that are too small
        before, after = (np.pad(frame, ((0, short[0]), (0, short[1])), mode="edge") for frame in (before, after))
    kinds = {"ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST}
    search = cv2.DISOpticalFlow_create(kinds.get(preset, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM))
    if preset == "finest":
        search.setFinestScale(0)
    return search.calc(before, after, None)[:height, :width]


def warp(image: np.ndarray, flow: np.ndarray, *, sharp: bool = False) -> np.ndarray:
    """Sample an image (H, W) or (H, W, C) where the flow points to; beyond the edges, the nearest pixel.

    Args:
        image: float32.
        flow: (H, W, 2).
        sharp: bicubic instead of bilinear sampling.
    """
    cv2 = load_opencv()
    x, y = (flow[..., axis] + grid for axis, grid in enumerate(_grid(flow.shape[:2])))
    method = cv2.INTER_CUBIC if sharp else cv2.INTER_LINEAR
    return cv2.remap(image, x, y, method, borderMode=cv2.BORDER_REPLICATE)


def consistency(flow: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Compute the forward-backward error in pixels (H, W): how far a pixel lands from itself, there and back again."""
    return np.sqrt(_square_length(flow + warp(back, flow)))


def find_visible(flow: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Return where the content of a frame is visible in the other frame, too (H, W), bool.

    Sundaram et al., "Dense Point Trajectories by GPU-accelerated Large Displacement Optical Flow" (ECCV 2010): the
    squared forward-backward error is at most 0.01 of the squared lengths of both flows, plus 0.5; and the flow points
    into the frame.
    """
    returned = warp(back, flow)
    lengths = _square_length(flow) + _square_length(returned)
    height, width = flow.shape[:2]
    x, y = (flow[..., axis] + grid for axis, grid in enumerate(_grid((height, width))))
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return (_square_length(flow + returned) <= 0.01 * lengths + 0.5) & inside


def splat(flow: np.ndarray, time: float, weight: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Move values along a part of the flow, and average those that arrive at a pixel.

    Args:
        flow: (H, W, 2).
        time: part of the flow, in [0, 1].
        weight: of each pixel (H, W).
        values: arrays (H, W).

    Returns:
        The sum of the weights that arrive (H, W), and the averages; 0 where none do.
    """
    height, width = weight.shape
    x, y = (time * flow[..., axis] + grid for axis, grid in enumerate(_grid((height, width))))
    x, y = x.clip(-1, width), y.clip(-1, height)  # on a canvas with a margin of a pixel, two behind
    left, top = np.floor(x), np.floor(y)
    right_share, bottom_share = x - left, y - top
    place = ((top + 1) * (width + 3) + left + 1).astype(np.int64)
    sums = [np.zeros((height + 3) * (width + 3)) for _ in range(1 + len(values))]
    upper, lower = (1 - bottom_share) * weight, bottom_share * weight
    for step, row in ((0, upper), (width + 3, lower)):
        for side, share in ((0, (1 - right_share) * row), (1, right_share * row)):
            to = (place + (step + side)).ravel()
            for total, value in zip(sums, (None, *values), strict=True):
                moved = share if value is None else share * value
                total += np.bincount(to, moved.ravel(), len(total))
    arrived, *totals = (part.reshape(height + 3, width + 3)[1:-2, 1:-2] for part in sums)
    averages = [np.divide(total, arrived, out=np.zeros_like(total), where=arrived > 1e-6) for total in totals]
    return tuple(part.astype(np.float32) for part in (arrived, *averages))


def _grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns (1, W) and the rows (H, 1) of a frame."""
    height, width = size
    return np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]


class FramePair:
    """Two neighbouring frames and the motion between them, which frames in between follow.

    The flow of either frame is moved to the time in between and averaged there, with weights of photometric and
    forward-backward agreement. Both frames are sampled along it, as well as along the motion of the whole frame, an
    affine map: it corrects flow where patterns repeat. Candidates count by how far both frames agree in them. Where
    only one frame shows what arrives, that frame alone is taken; where neither does, both are blended.

    Args:
        before, after: frames (H, W, 3), float32 in [0, 1], of the same size.
        preset: of the flow.

    Attributes:
        flow, back: flow from the first to the second frame and the reverse (H, W, 2).
        fallback: what stands in between where motion cannot be followed, in words; empty where it can.
    """

    def __init__(self, before: np.ndarray, after: np.ndarray, preset: Preset = "medium") -> None:
        self.frames = before, after
        grey = match_exposure(to_grey(before), to_grey(after))
        self.flow, self.back = estimate_flow(*grey, preset), estimate_flow(*grey[::-1], preset)
        levels = [frame.astype(np.float32) for frame in grey]
        self._sides = [
            _Side.measure(levels[0], levels[1], self.flow, self.back),
            _Side.measure(levels[1], levels[0], self.back, self.flow),
        ]
        self.fallback = self._find_fallback(levels)

    def _find_fallback(self, levels: list[np.ndarray]) -> str:
        height, width = levels[0].shape
        far = np.median(np.abs(self.flow), axis=(0, 1)) > np.array([width, height]) / FARTHEST
        difference = float(np.abs(_normalise(levels[0] - levels[1])).mean())
        remaining = float(np.abs(_normalise(levels[0] - warp(levels[1], self.flow))).mean())
        unexplained = remaining > max(CUT, UNEXPLAINED * difference)
        if min(side.visible.mean() for side in self._sides) >= LEAST_FOLLOWED and not far.any() and not unexplained:
            return ""
        return "nearest" if difference > CUT else "blend"

    def at(self, time: float) -> np.ndarray:
        """Make the frame at a time between the two, in (0, 1): (H, W, 3), float32 in [0, 1]."""
        before, after = self.frames
        if self.fallback == "nearest":
            return before if time <= 0.5 else after
        blend = (1 - time) * before + time * after
        if self.fallback or np.array_equal(before, after):
            return blend
        total, weights = UNSEEN * blend, np.full(blend.shape[:2], UNSEEN, np.float32)
        for flow, alone, seen in self._candidates(time):
            samples = warp(before, -time * flow, sharp=True), warp(after, (1 - time) * flow, sharp=True)
            share = time * (1 - alone[0] - alone[1]) + alone[1]  # of the second frame
            difference = _normalise(to_levels(samples[0]) - to_levels(samples[1]))
            occluded = alone[0] + alone[1]
            weight = np.exp(-_average(np.abs(difference)) * (1 - occluded) / SHARPNESS) * seen * (1 - 0.9 * occluded)
            total += weight[..., None] * (samples[0] + share[..., None] * (samples[1] - samples[0]))
            weights += weight
        return (total / weights[..., None]).clip(0, 1).astype(np.float32)

    def _candidates(self, time: float) -> list[tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]]:
        """Return flows at a time: each with the shares of what one frame shows alone, and where anything arrives."""
        first, second = self._sides
        arrived, seen = [], []
        for side, part, sign in ((first, time, 1), (second, 1 - time, -1)):
            weight, x, y, visible = splat(side.flow, part, side.weight, *np.moveaxis(side.flow, 2, 0), side.visible)
            arrived.append((weight, sign * np.dstack((x, y))))
            seen.append(visible)
        weight = arrived[0][0] + arrived[1][0]
        whole = np.maximum(weight, 1e-6)
        shares = [arrived[0][0] / whole, arrived[1][0] / whole]
        flow = shares[0][..., None] * arrived[0][1] + shares[1][..., None] * arrived[1][1]
        alone = shares[0] * (1 - seen[0]), shares[1] * (1 - seen[1])
        nowhere = np.zeros_like(whole)
        everywhere = np.ones_like(whole)
        return [(flow, alone, (weight > 1e-3).astype(np.float32)), (self._whole_motion, (nowhere, nowhere), everywhere)]

    @cached_property
    def _whole_motion(self) -> np.ndarray:
        return fit_affine(self.flow)


class _Side(NamedTuple):
    """A frame's flow to the other: the weight of each pixel, and whether the other frame shows it, 0 or 1 (H, W)."""

    flow: np.ndarray
    weight: np.ndarray
    visible: np.ndarray

    @classmethod
    def measure(cls, own: np.ndarray, other: np.ndarray, flow: np.ndarray, back: np.ndarray) -> _Side:
        error = _average(np.abs(_normalise(own - warp(other, flow))))
        weight = np.exp(-error / SHARPNESS - consistency(flow, back)) + 1e-4
        return cls(flow, weight, find_visible(flow, back).astype(np.float32))


def match_exposure(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give two 8-bit grey frames (H, W) the mean and contrast of the first, where a flash or a fade changes them."""
    (mean, contrast), (other_mean, other_contrast) = ((float(x.mean()), float(x.std())) for x in (before, after))
    gain = contrast / other_contrast if min(contrast, other_contrast) > 1 else 1.0
    if abs(np.log(gain)) < EXPOSURE and abs(mean - other_mean) < 255 * EXPOSURE:
        return before, after
    matched = (gain * (after.astype(np.float32) - other_mean) + mean).clip(0, 255).round()
    return before, matched.astype(np.uint8)


def fit_affine(flow: np.ndarray) -> np.ndarray:
    """Fit the motion of the whole frame to a flow (H, W, 2): the affine map that most of it follows, as a flow.

    Iteratively reweighted least squares with Cauchy weights, on a grid of pixels.
    """
    height, width = flow.shape[:2]
    columns, rows = _grid((height, width))
    places = [part[GRID // 2 :: GRID] if part.size > GRID else part for part in (columns[0], rows[:, 0])]
    x, y = (part.ravel() for part in np.meshgrid(*places))
    middle, unit = np.array([width, height]) / 2, max(width, height)
    samples = np.column_stack([(x - middle[0]) / unit, (y - middle[1]) / unit, np.ones_like(x)]).astype(np.float64)
    targets = flow[y.astype(int), x.astype(int)].astype(np.float64)
    weights = np.ones(len(samples))
    for _ in range(ROUNDS):
        weighted = samples * weights[:, None] ** 2
        # sums without BLAS, whose order depends on the number of threads
        gram, sums = (np.einsum("ni,nj->ij", weighted, other) for other in (samples, targets))
        solution = np.linalg.pinv(gram, hermitian=True) @ sums
        errors = np.linalg.norm(samples @ solution - targets, axis=1)
        weights = 1 / (1 + (errors / TOLERANCE) ** 2)
    across, down, constant = solution
    x, y = (columns - middle[0]) / unit, (rows - middle[1]) / unit
    fitted = x[..., None] * across + y[..., None] * down + constant
    return fitted.astype(np.float32)


def to_levels(frame: np.ndarray) -> np.ndarray:
    """Convert a frame to grey in 8-bit levels, not rounded (H, W)."""
    return 255 * frame @ np.array([0.299, 0.587, 0.114], np.float32)


def _square_length(flow: np.ndarray) -> np.ndarray:
    """Return the squared length of each vector (H, W)."""
    return flow[..., 0] ** 2 + flow[..., 1] ** 2


def _average(image: np.ndarray) -> np.ndarray:
    """Average an image (H, W) over a window."""
    return load_opencv().blur(image, (WINDOW, WINDOW))


def _normalise(difference: np.ndarray) -> np.ndarray:
    """Subtract the change of brightness from a difference of frames, in levels: fades and flashes are no motion."""
    return difference - np.median(difference[:: SPARSE if len(difference) > SPARSE else 1, ::SPARSE])
