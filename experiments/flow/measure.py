"""Leave out every second frame of clips, make it again, and compare: blending, FFmpeg's minterpolate, and flow.

    python -m experiments.flow.measure <video or folder of frames> ... [--frames 33]

Prints the mean luma PSNR of the frames that were made, clip by clip, and the processor seconds of a frame by flow.
Frames wider than 1,000 pixels are halved first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from src.metrics import psnr
from src.ops.optical_flow import FramePair
from src.video.reader import open_video

WIDEST = 1000
METHODS = ("blend", "minterpolate", "flow")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.flow.measure")
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=33, help="of each clip, from its beginning")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| clip | size | frames made | blend | minterpolate | flow | flow - minterpolate | seconds a frame |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    means = []
    for path in options.clips:
        frames = read(path, options.frames)
        scores, seconds = measure(frames)
        blend, reference, ours = (statistics.mean(scores[method]) for method in METHODS)
        means.append((blend, reference, ours))
        size, count = f"{frames.shape[2]}x{frames.shape[1]}", len(scores["flow"])
        row = f"{blend:.2f} | {reference:.2f} | {ours:.2f} | {ours - reference:+.2f} | {seconds:.2f}"
        print(f"| {path.stem} | {size} | {count} | {row} |", flush=True)
    blend, reference, ours = (statistics.mean(column) for column in zip(*means, strict=True))
    print(f"| mean | | | {blend:.2f} | {reference:.2f} | {ours:.2f} | {ours - reference:+.2f} | |")


def read(path: Path, count: int) -> np.ndarray:
    """Read the first frames of a clip, (T, H, W, 3) uint8 of even size, at most ``WIDEST`` pixels wide."""
    with open_video(path) as reader:
        frames = reader.read(range(min(count, len(reader)))).numpy()
    while frames.shape[2] > WIDEST:
        frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2].astype(np.float32)
        quarters = [frames[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        frames = (sum(quarters) / 4).round().astype(np.uint8)
    return np.ascontiguousarray(frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2])


def measure(frames: np.ndarray) -> tuple[dict[str, list[float]], float]:
    """Return the PSNR of every second frame as each method makes it, and the median of seconds a frame by flow."""
    scores: dict[str, list[float]] = {method: [] for method in METHODS}
    made, seconds = minterpolate(frames[::2]), []
    for number in range(1, len(frames) - 1, 2):
        if number not in made:  # minterpolate leaves out the last ones
            continue
        before, truth, after = (frames[number + k].astype(np.float32) / 255 for k in (-1, 0, 1))
        begun = time.process_time()
        flow = FramePair(before, after).at(0.5)
        seconds.append(time.process_time() - begun)
        estimates = ((before + after) / 2, made[number].astype(np.float32) / 255, flow)
        for method, estimate in zip(METHODS, estimates, strict=True):
            clips = [torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1) for x in (estimate, truth)]
            scores[method].append(float(psnr(*clips, luma=True)))
    return scores, statistics.median(seconds)


def minterpolate(frames: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Double the rate by FFmpeg's motion-compensated interpolation; return frames by their numbers at that rate."""
    graph = av.filter.Graph()
    tick = Fraction(1, 25)
    source = graph.add_buffer(width=frames[0].shape[1], height=frames[0].shape[0], format="yuv444p", time_base=tick)
    interpolate, sink = graph.add("minterpolate", "fps=50:mi_mode=mci"), graph.add("buffersink")
    source.link_to(interpolate)
    interpolate.link_to(sink)
    graph.configure()
    made: dict[int, np.ndarray] = {}

    def drain() -> None:
        while True:
            try:
                frame = graph.pull()
            except (BlockingIOError, av.error.EOFError):
                return
            made[round(frame.pts * frame.time_base * 50)] = frame.to_ndarray(format="rgb24")

    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv444p")
        frame.pts, frame.time_base = number, tick
        graph.push(frame)
        drain()
    graph.push(None)
    drain()
    return made


if __name__ == "__main__":
    main()
