"""Damaged videos and images yield frames or a one-sentence error; never a hang, a crash or unbounded memory."""

from __future__ import annotations

import os
import signal
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from src.errors import VideoError
from src.video.images import load_image
from src.video.pipe import open_pipe
from src.video.reader import open_video
from tests.fuzz.mutations import MUTATIONS
from tests.fuzz.pool import run_cases
from tests.fuzz.reading import FAILURES, Case, Outcome, make_case
from tests.fuzz.seeds import REAL_FILES, Seed, list_seeds, make_seeds
from tests.video.clips import encode


@pytest.fixture(scope="module")
def seed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    make_seeds(folder)
    return folder


@pytest.fixture
def seeds(seed_folder: Path) -> list[Seed]:
    return list_seeds(seed_folder)


def read_seed(seeds: Sequence[Seed], name: str) -> bytes:
    return next(seed for seed in seeds if seed.name == name).files[0].read_bytes()


def describe_failures(outcomes: Sequence[Outcome], seeds: Sequence[Seed], seed: int) -> list[str]:
    failures = [(make_case(seeds, seed, o.number), o) for o in outcomes if o.kind in FAILURES]
    return [f"{o.number} {case.seed} {case.mutation} {case.mode}: {o.kind}, {o.message}" for case, o in failures]


@pytest.mark.long
def test_damaged_files_yield_frames_or_an_error(seeds: list[Seed]) -> None:
    outcomes = list(run_cases(seeds, 0, range(100)))
    assert describe_failures(outcomes, seeds, 0) == []
    assert sorted(outcome.number for outcome in outcomes) == list(range(100))
    kinds = Counter(outcome.kind for outcome in outcomes)
    assert min(kinds["frames"], kinds["cut"] + kinds["error"]) > 20  # both kinds occur often
    assert max(outcome.memory for outcome in outcomes) < 256 << 20  # frames of 96x64


@pytest.mark.slow
def test_two_thousand_damaged_files(seed_folder: Path) -> None:
    seeds = list_seeds(seed_folder, REAL_FILES)
    outcomes = list(run_cases(seeds, 1, range(2000), workers=2))
    assert describe_failures(outcomes, seeds, 1) == []
    assert len({outcome.number for outcome in outcomes}) == 2000
    kinds = Counter(outcome.kind for outcome in outcomes)
    assert min(kinds["frames"], kinds["cut"], kinds["error"]) > 100


def test_mutation_is_a_function_of_its_number(seeds: list[Seed]) -> None:
    cases = [make_case(seeds, 3, number) for number in range(60)]
    assert cases == [make_case(list(seeds), 3, number) for number in range(60)]
    assert len({repr(sorted(case.files.items())) for case in cases}) == 60
    assert make_case(seeds, 4, 0) != cases[0]
    assert {name for number in range(300) for name in make_case(seeds, 3, number).mutation.split("+")} == set(MUTATIONS)


class DeadlyCase(Case):
    """A case that crashes, blocks or bloats its worker, as its mutation names it."""

    def write(self, folder: Path) -> Path:
        if self.mutation == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.mutation == "memory":
            self.__dict__["held"] = np.ones(512 << 20, np.uint8)
        if self.mutation in ("memory", "hang"):
            signal.pause()
        return super().write(folder)


@pytest.mark.long
def test_failed_workers_are_reported_and_replaced(seeds: list[Seed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.pool.TIME_LIMIT", 4.0)
    monkeypatch.setattr("tests.fuzz.pool.MEMORY_LIMIT", 256 << 20)
    intact = {"h264.mp4": read_seed(seeds, "h264.mp4")}
    plan = ["none", "crash", "none", "memory", "none", "hang", "none"]
    jobs = [DeadlyCase(number, "h264.mp4", name, "pyav", intact, False) for number, name in enumerate(plan)]
    kinds = {outcome.number: outcome.kind for outcome in run_cases(seeds, 0, jobs)}
    assert [kinds[number] for number in range(len(plan))] == [name.replace("none", "frames") for name in plan]


# --- Regressions ---


def write_file(path: Path, data: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def test_metadata_may_be_invalid_utf8(seeds: list[Seed], tmp_path: Path) -> None:
    """PyAV raised UnicodeDecodeError on opening the file."""
    data = read_seed(seeds, "h264.mp4")
    assert data.count(b"VideoHandler") == 1
    path = write_file(tmp_path / "a.mp4", data.replace(b"VideoHandler", b"Vide\xff\xefandler"))
    assert len(list(open_video(path).frames())) == 14
    with path.open("rb") as file, open_pipe(file) as pipe:
        assert len(list(pipe.frames())) == 14


def test_file_without_streams_is_refused(seeds: list[Seed], tmp_path: Path) -> None:
    """PyAV raised ValueError without a stream to apply options to."""
    path = write_file(tmp_path / "a.mp4", read_seed(seeds, "h264.mp4").replace(b"trak", b"trek"))
    with pytest.raises(VideoError, match=r"a\.mp4 has no readable video stream"):
        open_video(path)


@pytest.mark.long
def test_decord_is_not_used_with_overstated_frame_counts(seeds: list[Seed]) -> None:
    """decord allocated memory for all of them and ended the process with std::bad_alloc."""
    data = read_seed(seeds, "h264.mp4")
    at = data.index(b"stts") + 12  # entries of a frame count and a duration
    assert struct.unpack(">I", data[at : at + 4]) == (14,)
    data = data[:at] + struct.pack(">I", 0xFFFFFFF0) + data[at + 4 :]
    [outcome] = run_cases(seeds, 0, [Case(0, "h264.mp4", "counts", "auto", {"a.mp4": data}, False)])
    assert (outcome.kind, outcome.frames) == ("frames", 14), outcome.message


@pytest.mark.long
def test_overstated_table_is_not_allocated(shared: Path) -> None:
    """FFmpeg allocated 1 GB (8 GB with another bit) for a damaged count of 268 million frames."""
    data = (shared / "data/odd/iphone_livephoto_hevc_rot90_5streams.mov").read_bytes()
    at = data.index(b"ctts") + 12 + 13 * 8  # entries of a frame count and a composition offset
    assert struct.unpack(">II", data[at : at + 8]) == (1, 60)
    data = data[:at] + struct.pack(">I", (1 << 28) + 1) + data[at + 4 :]
    [outcome] = run_cases([], 0, [Case(0, "iphone", "table", "auto", {"a.mov": data}, False)])
    assert outcome.kind not in FAILURES, outcome.message
    assert outcome.memory < 100 << 20


def test_ffmpeg_allocations_are_limited(seeds: list[Seed], tmp_path: Path) -> None:
    open_video(write_file(tmp_path / "a.mp4", read_seed(seeds, "h264.mp4")))
    with pytest.raises((MemoryError, av.FFmpegError)):
        av.VideoFrame(12000, 12000, "rgba64le")


@pytest.mark.long
def test_frames_above_the_pixel_limit_are_not_allocated(seeds: list[Seed]) -> None:
    """A GIF of 5 KB that declares 16000x15000 pixels took more than 2 GB."""
    data = read_seed(seeds, "picture.gif").replace(struct.pack("<HH", 96, 64), struct.pack("<HH", 16000, 15000), 1)
    modes = ("auto", "deep", "pipe")
    jobs = [Case(number, "picture.gif", "larger", mode, {"a.gif": data}, False) for number, mode in enumerate(modes)]
    for outcome in run_cases(seeds, 0, jobs):
        assert (outcome.kind, outcome.frames) == ("error", 0), outcome.message
        assert outcome.memory < 100 << 20


def test_videos_above_the_pixel_limit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 6100, 6000, "yuv420p"
        for packet in (*stream.encode(av.VideoFrame(6100, 6000, "yuv420p")), *stream.encode(None)):
            container.mux(packet)
    message = "has frames of 6100x6000, above the limit of 36 million pixels; downscale them first"
    with pytest.raises(VideoError, match=f"a.mkv {message}"):
        open_video(path)
    with path.open("rb") as file, pytest.raises(VideoError, match=f"standard input {message}"):
        open_pipe(file)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_images_above_the_pixel_limit_are_refused(tmp_path: Path, suffix: str) -> None:
    """Pillow refuses only from 179 million pixels on: three copies of such an image are 1.6 GB."""
    wide = Image.new("1", (12000, 6000))
    for number in range(2):
        wide.save(tmp_path / f"{number}{suffix}")
    with pytest.raises(VideoError, match=r"0\.\w+ has frames of 12000x6000, above the limit of 67 million pixels"):
        open_video(tmp_path)


def test_16_bits_are_rounded_to_8(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "0.png")
    read = open_video(tmp_path).read([0])[0].numpy()
    assert np.array_equal(read, np.repeat(np.rint(values / 257).astype(np.uint8)[..., None], 3, 2))
    assert np.array_equal(load_image(tmp_path / "0.png", 16), np.repeat(values[..., None], 3, 2))


def test_concealed_frames_do_not_depend_on_seeks(tmp_path: Path) -> None:
    """Frames with error concealment differed after a seek from those read in order."""
    data = encode(tmp_path / "whole.mkv", "libx264", {"g": "12", "bf": "3", "threads": "1"}).read_bytes()
    path, compared = tmp_path / "a.mkv", 0
    for part in range(4, 10):
        at = len(data) * part // 12
        path.write_bytes(data[:at] + bytes((37 * i + at) % 256 for i in range(40)) + data[at + 40 :])
        with av.open(str(path)) as container:
            frames = [(frame.is_corrupt, frame.to_ndarray(format="rgb24")) for frame in decode_until_damage(container)]
        for number in [n for n, (corrupt, _) in enumerate(frames) if corrupt and n > 24][:3]:
            compared += 1
            assert np.array_equal(open_video(path, "pyav").read([number])[0].numpy(), frames[number][1])
    assert compared


def decode_until_damage(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    stream = container.streams.video[0]
    stream.thread_type = "SLICE"
    with suppress(av.FFmpegError):
        yield from container.decode(stream)
