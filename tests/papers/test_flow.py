"""Interpolation along optical flow, on scenes whose frames in between are known."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from src.checkpoints import cascade
from src.config.composition import compose
from src.config.validation import validate
from src.engine.file_job import FileRestoration
from src.engine.options import InferenceOptions, RestoreOptions
from src.engine.stream import stream
from src.errors import UserError
from src.metrics import psnr
from src.ops import optical_flow
from src.ops.optical_flow import FramePair, estimate_flow, find_visible, fit_affine, to_grey, warp
from src.papers.baselines import Blend, Repeat
from src.papers.flow import Flow
from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.command_line import ROOT, call

SIZE = (96, 128)


def texture(size: tuple[int, int] = SIZE, seed: int = 0, coarse: int = 6) -> np.ndarray:
    """A smooth random picture (H, W, 3), float32 in [0, 1]."""
    height, width = size
    shape = (1, 3, max(2, height // coarse), max(2, width // coarse))
    rough = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(rough, size, mode="bicubic", align_corners=True)
    return smooth[0].clamp(0, 1).permute(1, 2, 0).contiguous().numpy()


def transformed(
    image: np.ndarray, *, angle: float = 0, zoom: float = 1, shift: tuple[float, float] = (0, 0)
) -> np.ndarray:
    """Rotate and enlarge a picture about its centre, and shift it by x and y in pixels."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x - np.float32(shift[0] + (width - 1) / 2), y - np.float32(shift[1] + (height - 1) / 2)
    cosine, sine = np.float32(np.cos(angle) / zoom), np.float32(np.sin(angle) / zoom)
    places = cosine * x + sine * y + np.float32((width - 1) / 2), cosine * y - sine * x + np.float32((height - 1) / 2)
    cv2 = optical_flow.load_opencv()
    return cv2.remap(image, *places, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT).clip(0, 1)


def fidelity(one: np.ndarray, other: np.ndarray, border: int = 8) -> float:
    """PSNR in dB without the borders."""
    inner = (slice(border, -border), slice(border, -border))
    clips = [torch.from_numpy(np.ascontiguousarray(image[inner])).permute(2, 0, 1) for image in (one, other)]
    return float(psnr(*clips))


def tensor(*frames: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)[None]


@pytest.mark.parametrize(
    ("motion", "least"),
    [
        ({"shift": (6, -2)}, 36),
        ({"shift": (14, 9)}, 35),
        ({"angle": 0.12}, 34),
        ({"zoom": 1.12}, 34),
        ({"angle": 0.06, "zoom": 0.95, "shift": (3, 4)}, 34),
    ],
)
@pytest.mark.parametrize("time", [0.5, 0.2])
def test_the_motion_of_a_whole_frame_is_followed(motion, least, time):
    whole = texture((160, 200), coarse=12)

    def at(part: float) -> np.ndarray:
        moved = {"angle": part * motion.get("angle", 0), "zoom": motion.get("zoom", 1) ** part}
        moved["shift"] = tuple(part * value for value in motion.get("shift", (0, 0)))
        return np.ascontiguousarray(transformed(whole, **moved)[32:128, 36:164])

    made = FramePair(at(0), at(1)).at(time)
    assert fidelity(made, at(time)) > least
    blend = (1 - time) * at(0) + time * at(1)
    assert fidelity(made, at(time)) > fidelity(blend, at(time)) + 6


def square(left: int, top: int, side: int = 56) -> np.ndarray:
    """A textured square over a textured background, (144, 192, 3)."""
    frame = texture((144, 192), coarse=10).copy()
    frame[top : top + side, left : left + side] = texture((side, side), seed=5, coarse=4)
    return frame


def test_a_moving_square_and_what_it_covers_and_uncovers():
    before, truth, after = square(40, 40), square(45, 43), square(50, 46)
    pair = FramePair(before, after)
    made = pair.at(0.5)
    assert fidelity(made, truth) > 28
    assert fidelity(made, truth) > fidelity((before + after) / 2, truth) + 5
    still = np.ones((144, 192), bool)
    still[24:120, 24:124] = False
    assert np.abs(made - truth)[still].max() < 0.02
    uncovered, covered = find_visible(pair.back, pair.flow), find_visible(pair.flow, pair.back)
    assert min(uncovered[120:].mean(), covered[120:].mean()) > 0.95
    assert uncovered[50:90, 41:48].mean() < 0.5  # shown by the second frame alone
    assert covered[50:90, 97:104].mean() < 0.5  # shown by the first frame alone


@pytest.mark.parametrize("change", [-0.3, 0.25])
def test_a_fade_over_motion_is_followed(change):
    scene = texture((96, 160))
    frames = [
        (0.3 + 0.4 * scene[:, 4 * k : 4 * k + 128] + change * k / 2).clip(0, 1).astype(np.float32) for k in range(3)
    ]
    pair = FramePair(frames[0], frames[2])
    assert not pair.fallback
    assert fidelity(pair.at(0.5), frames[1]) > 32


def test_a_flash_is_blended_and_a_cut_is_not():
    scene, white = texture(), np.ones((*SIZE, 3), np.float32)
    assert fidelity(FramePair(scene, scene * 0.3 + 0.7).at(0.5), scene * 0.65 + 0.35) > 34
    pair = FramePair(texture(seed=1, coarse=3), texture(seed=2, coarse=3) * 0.5)
    assert pair.fallback == "nearest"
    assert np.array_equal(pair.at(0.4), pair.frames[0])
    assert np.array_equal(pair.at(0.6), pair.frames[1])
    assert np.isfinite(FramePair(scene, white).at(0.5)).all()


def test_black_bars_stay_black():
    frames = []
    for k in range(3):
        frame = np.zeros((*SIZE, 3), np.float32)
        frame[20:76] = transformed(texture(), shift=(3 * k, 0))[20:76]
        frames.append(frame)
    made = FramePair(frames[0], frames[2]).at(0.5)
    assert made[:18].max() == made[78:].max() == 0
    assert fidelity(made, frames[1]) > 32


def test_identical_frames_stay_as_they_are():
    frame = texture()
    assert np.array_equal(FramePair(frame, frame).at(0.25), frame)


def test_colours_of_half_the_resolution_are_followed():
    frames = []
    for k in range(3):
        grey, colour = (
            transformed(texture(), shift=(4 * k, 2 * k)).mean(-1),
            transformed(texture(seed=3), shift=(4 * k, 2 * k)),
        )
        coarse = torch.nn.functional.avg_pool2d(tensor(colour)[0], 2)
        fine = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")[0].permute(1, 2, 0).numpy()
        frames.append((0.6 * grey[..., None] + 0.4 * fine).astype(np.float32))
    assert fidelity(FramePair(frames[0], frames[2]).at(0.5), frames[1]) > 33


@pytest.mark.parametrize("size", [(8, 8), (8, 40), (17, 9), (33, 65), (1080, 1920)])
def test_any_size(size):
    clip = tensor(texture(size), transformed(texture(size), shift=(1, 0)))
    made = Flow(scale=1)(clip)
    assert made.shape == (1, 3, 3, *size)
    assert torch.equal(made[:, ::2], clip)
    assert made.isfinite().all()


def test_flow_warp_and_the_motion_of_a_frame():
    scene = texture((96, 160))
    before, after = scene[:, 8:136], scene[:, 3:131]  # content moves by 5 pixels to the right
    flow = estimate_flow(to_grey(before), to_grey(after))
    assert np.abs(np.median(flow, axis=(0, 1)) - (5, 0)).max() < 0.1
    assert np.abs(fit_affine(flow)[10:-10, 10:-10] - (5, 0)).max() < 0.2
    inner = slice(12, -12)
    assert np.abs(warp(np.ascontiguousarray(after), flow) - before)[inner, inner].mean() < 0.01
    wrong = flow + np.where(np.arange(128)[:, None] < 30, 9, 0).astype(np.float32)
    assert np.abs(fit_affine(wrong)[:, 40:-10] - (5, 0)).max() < 0.5  # most of the frame decides


def test_any_number_of_times():
    frames = [transformed(texture(), shift=(8 * k / 5, 0)) for k in range(6)]
    network = Flow(scale=1, times=5)
    assert network.geometry.spacing == Fraction(1, 5)
    made = network(tensor(frames[0], frames[5]))[0].permute(0, 2, 3, 1).numpy()
    assert len(made) == 6
    assert min(fidelity(one, truth) for one, truth in zip(made, frames, strict=True)) > 33
    between = network.between(tensor(frames[0])[0], tensor(frames[5])[0], Fraction(2, 5))
    assert torch.equal(between[0].permute(1, 2, 0), torch.from_numpy(made[2]))
    for times in (1, 17, 2.015):
        with pytest.raises(UserError, match=rf"model\.network\.times={times} must be above 1 and at most 16"):
            Flow(times=times)


def test_two_and_a_half_times():
    frames = [transformed(texture(), shift=(8 * k / 5, 0)) for k in range(0, 21)]
    network = Flow(scale=1, times=2.5)
    clip = tensor(*frames[::5])
    made = network(clip)[0]
    assert network.geometry.spacing == Fraction(2, 5)
    assert len(made) == 11
    truth = [np.ascontiguousarray(frame) for frame in frames[::2]]
    assert min(fidelity(one.permute(1, 2, 0).numpy(), other) for one, other in zip(made, truth, strict=True)) > 33
    streamed = list(stream(network, iter(clip[0]), InferenceOptions()))
    assert [time for time, _ in streamed] == [Fraction(2 * k, 5) for k in range(11)]
    assert torch.equal(torch.stack([frame for _, frame in streamed]), made)
    assert torch.equal(made[5], clip[0, 2])


def test_a_restoration_resumes_to_the_same_file_and_tells_what_it_lost(tmp_path):
    scenes = [texture(seed=1, coarse=3)] * 3 + [texture(seed=2, coarse=3) * 0.5] * 2
    moving = [transformed(scenes[min(k, 4)], shift=(3 * k, 0)) for k in range(5)]
    with VideoWriter(tmp_path / "in.mkv", 24, "ffv1") as writer:
        for frame in moving:
            writer.write(torch.from_numpy((frame * 255).round().astype(np.uint8)))
    files = {}
    for name, cut in (("whole", False), ("cut", True)):
        network, output = Flow(scale=1, times=2.5), tmp_path / f"{name}.mkv"
        options = RestoreOptions(codec="ffv1", segment=2, cuts=False)
        job = FileRestoration(network, tmp_path / "in.mkv", output, options, torch.device("cpu"))
        if cut:
            job.run(job.journal.list_missing(job.parts)[:2])
            job = FileRestoration(network, tmp_path / "in.mkv", output, options, torch.device("cpu"))
        job.run(job.journal.list_missing(job.parts))
        job.finish()
        files[name] = output.read_bytes()
        assert "Motion could not be followed in " in network.remarks()[0]
    assert files["whole"] == files["cut"]
    with open_video(tmp_path / "whole.mkv") as reader:
        assert (reader.fps, len(reader)) == (60, 11)


@pytest.mark.long
def test_its_motion_and_what_it_lost_are_shown_by_a_command(tmp_path):
    with VideoWriter(tmp_path / "in.mp4", 24) as writer:
        for seed in (1, 2):
            frame = texture(seed=seed, coarse=3) / seed
            writer.write(torch.from_numpy((frame * 255).round().astype(np.uint8)))
    common = ["task=restore", "model=flow", "model.network.scale=1", f"input={tmp_path / 'in.mp4'}", "cuts=false"]
    done = call(*common, f"output={tmp_path / 'out.mp4'}")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert f"{tmp_path / 'in.mp4'}: Motion could not be followed in 1 of 1 pair of frames: 1 held." in said
    done = call(*common, f"output={tmp_path / 'motion.mp4'}", "show=motion")
    assert done.returncode == 0, done.stderr
    with open_video(tmp_path / "motion.mp4") as reader:
        assert (len(reader), reader.size) == (2, SIZE)


def test_networks_that_make_any_time():
    before, after = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert Blend(scale=1).between(before, after, Fraction(1, 4)).unique().tolist() == [0.25]
    assert Repeat(scale=1).between(before, after, Fraction(3, 4)).unique().tolist() == [1]
    chain = cascade([Repeat(scale=1), Blend(scale=1)])
    assert chain.between(before, after, Fraction(1, 4)).unique().tolist() == [0.25]


def test_frames_are_enlarged_first():
    clip = tensor(*[transformed(texture((24, 32)), shift=(k, 0)) for k in range(3)])
    made = Flow(scale=4)(clip)
    assert made.shape == (1, 5, 3, 96, 128)
    assert torch.equal(made, Flow(scale=1)(Repeat(scale=4)(clip)[:, ::2].clamp(0, 1)))


def test_streaming_is_the_whole_and_a_single_frame_stays_single():
    clip = tensor(*[transformed(texture(), shift=(2 * k, 0)) for k in range(5)])
    network = Flow(scale=1, times=3)
    whole = network(clip)[0]
    options = InferenceOptions()
    streamed = list(stream(network, iter(clip[0]), options))
    assert [time for time, _ in streamed] == [Fraction(k, 3) for k in range(13)]
    assert torch.equal(torch.stack([frame for _, frame in streamed]), whole)
    later = list(stream(network, iter(clip[0, 2:]), options))
    assert torch.equal(torch.stack([frame for _, frame in later]), whole[6:])
    assert len(list(stream(network, iter(clip[0, :1]), options))) == 1


def test_lost_motion_is_told_once():
    network = Flow(scale=1)
    after = texture(seed=2, coarse=3) * 0.5
    network(
        tensor(texture(seed=1, coarse=3), after, transformed(after, shift=(1, 0)), transformed(after, shift=(1, 0)))
    )
    assert network.remarks() == ["Motion could not be followed in 1 of 2 pairs of frames: 1 held."]
    assert network.remarks() == []
    assert cascade([network]).remarks() == []


def test_its_motion_is_pictured():
    clip = tensor(*[transformed(texture(), shift=(5 * k, 0)) for k in range(3)])
    pictures = Flow(scale=4).motion()(clip)
    assert pictures.shape == (1, 2, 3, *SIZE)
    red, green, blue = pictures[0, :, :, 20:-20, 20:-20].median(-1).values.median(-1).values.unbind(1)
    assert (red > 0.95).all()  # to the right
    assert torch.maximum(green, blue).max() < 0.6


def test_without_opencv_a_sentence_names_the_extra(monkeypatch):
    optical_flow.load_opencv.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"Optical flow needs OpenCV: pip install .*\[flow\]"):
        Flow()
    optical_flow.load_opencv.cache_clear()


def test_the_configuration_is_valid():
    validate(compose("task=restore", "input=a.mp4", "output=b.mp4", "model=flow", "model.network.times=4"))
    assert RestoreOptions().alpha


@pytest.mark.long
def test_opencv_is_imported_by_flow_alone():
    program = "import sys, src.tasks.train, src.papers.flow, src.config.build; print('cv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.long
def test_results_do_not_depend_on_threads():
    program = (
        "import torch, hashlib, sys; torch.set_num_threads(int(sys.argv[1]))\n"
        "from tests.papers.test_flow import *\n"
        "clip = tensor(texture((270, 480)), transformed(texture((270, 480)), shift=(6, 3), angle=0.02))\n"
        "print(hashlib.sha256(Flow(scale=1)(clip).numpy().tobytes()).hexdigest())"
    )
    hashes = set()
    for threads in ("1", "2"):
        command = [sys.executable, "-c", program, threads]
        hashes.add(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert len(hashes) == 1
