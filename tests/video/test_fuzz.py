"""Damaged videos and images: what comes is frames or one sentence; never a hang, a crash, or memory without bounds."""

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
from src.video.images import load_16bit
from src.video.pipe import open_pipe
from src.video.reader import open_video
from tests.fuzz import FAILURES, MUTATIONS, REAL, Case, Outcome, Seed, case_of, make_seeds, run, seeds_of
from tests.video.test_reader import encode


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    make_seeds(folder)
    return folder


@pytest.fixture
def seeds(made: Path) -> list[Seed]:
    return seeds_of(made)


def content(seeds: Sequence[Seed], name: str) -> bytes:
    return next(seed for seed in seeds if seed.name == name).files[0].read_bytes()


def told(outcomes: Sequence[Outcome], seeds: Sequence[Seed], seed: int) -> list[str]:
    """The failures, each with what it was made of."""
    failed = [(case_of(seeds, seed, o.number), o) for o in outcomes if o.kind in FAILURES]
    return [f"{o.number} {case.seed} {case.mutation} {case.way}: {o.kind}, {o.words}" for case, o in failed]


def test_damaged_files_are_frames_or_one_sentence(seeds: list[Seed]) -> None:
    outcomes = list(run(seeds, 0, range(100)))
    assert told(outcomes, seeds, 0) == []
    assert sorted(outcome.number for outcome in outcomes) == list(range(100))
    kinds = Counter(outcome.kind for outcome in outcomes)
    assert min(kinds["frames"], kinds["cut"] + kinds["error"]) > 20  # neither of which would prove anything alone
    assert max(outcome.memory for outcome in outcomes) < 256 << 20  # frames of 96x64


@pytest.mark.slow
def test_two_thousand_damaged_files(made: Path) -> None:
    seeds = seeds_of(made, REAL)
    outcomes = list(run(seeds, 1, range(2000), workers=2))
    assert told(outcomes, seeds, 1) == []
    assert len({outcome.number for outcome in outcomes}) == 2000
    kinds = Counter(outcome.kind for outcome in outcomes)
    assert min(kinds["frames"], kinds["cut"], kinds["error"]) > 100


def test_a_mutation_is_a_function_of_its_number(seeds: list[Seed]) -> None:
    cases = [case_of(seeds, 3, number) for number in range(60)]
    assert cases == [case_of(list(seeds), 3, number) for number in range(60)]
    assert len({repr(sorted(case.files.items())) for case in cases}) == 60
    assert case_of(seeds, 4, 0) != cases[0]
    assert {name for number in range(300) for name in case_of(seeds, 3, number).mutation.split("+")} == set(MUTATIONS)


class Deadly(Case):
    """A file that does to its reader what its mutation says."""

    def write(self, folder: Path) -> Path:
        if self.mutation == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.mutation == "memory":
            self.__dict__["held"] = np.ones(512 << 20, np.uint8)
        if self.mutation in ("memory", "hang"):
            signal.pause()
        return super().write(folder)


def test_readers_that_die_are_named_and_the_others_read_on(seeds: list[Seed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.LIMIT", 4.0)
    monkeypatch.setattr("tests.fuzz.MEMORY", 256 << 20)
    good = {"h264.mp4": content(seeds, "h264.mp4")}
    plan = ["none", "crash", "none", "memory", "none", "hang", "none"]
    jobs = [Deadly(number, "h264.mp4", name, "pyav", good, False) for number, name in enumerate(plan)]
    found = {outcome.number: outcome.kind for outcome in run(seeds, 0, jobs)}
    assert [found[number] for number in range(len(plan))] == [name.replace("none", "frames") for name in plan]


# --- What was found ---


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def test_words_that_are_no_utf8_do_not_matter(seeds: list[Seed], tmp_path: Path) -> None:
    """av raised UnicodeDecodeError on opening the file."""
    data = content(seeds, "h264.mp4")
    assert data.count(b"VideoHandler") == 1
    path = put(tmp_path / "a.mp4", data.replace(b"VideoHandler", b"Vide\xff\xefandler"))
    assert len(list(open_video(path).frames())) == 14
    with path.open("rb") as file, open_pipe(file) as pipe:
        assert len(list(pipe.frames())) == 14


def test_a_table_without_streams_is_one_sentence(seeds: list[Seed], tmp_path: Path) -> None:
    """av raised ValueError where there is no stream to give options to."""
    path = put(tmp_path / "a.mp4", content(seeds, "h264.mp4").replace(b"trak", b"trek"))
    with pytest.raises(VideoError, match=r"a\.mp4 has no readable video stream"):
        open_video(path)


def test_decord_takes_no_memory_for_frames_that_are_only_said_to_be_there(seeds: list[Seed]) -> None:
    """It ended the process with std::bad_alloc."""
    data = content(seeds, "h264.mp4")
    at = data.index(b"stts") + 12  # entries of how many frames, and how long each is shown
    assert struct.unpack(">I", data[at : at + 4]) == (14,)
    data = data[:at] + struct.pack(">I", 0xFFFFFFF0) + data[at + 4 :]
    [outcome] = run(seeds, 0, [Case(0, "h264.mp4", "counts", "auto", {"a.mp4": data}, False)])
    assert (outcome.kind, outcome.frames) == ("frames", 14), outcome.words


def test_no_table_of_billions_is_made(shared: Path) -> None:
    """FFmpeg took 1 GB (8 GB with another bit) to write down what one damaged count says of 268 million frames."""
    data = (shared / "data/odd/iphone_livephoto_hevc_rot90_5streams.mov").read_bytes()
    at = data.index(b"ctts") + 12 + 13 * 8  # entries of how many frames, and how much later than decoded they are shown
    assert struct.unpack(">II", data[at : at + 8]) == (1, 60)
    data = data[:at] + struct.pack(">I", (1 << 28) + 1) + data[at + 4 :]
    [outcome] = run([], 0, [Case(0, "iphone", "table", "auto", {"a.mov": data}, False)])
    assert outcome.kind not in FAILURES, outcome.words
    assert outcome.memory < 100 << 20


def test_ffmpeg_takes_no_block_beyond_a_limit(seeds: list[Seed], tmp_path: Path) -> None:
    open_video(put(tmp_path / "a.mp4", content(seeds, "h264.mp4")))
    with pytest.raises((MemoryError, av.FFmpegError)):
        av.VideoFrame(12000, 12000, "rgba64le")


def test_no_memory_is_taken_for_frames_that_are_too_large(seeds: list[Seed]) -> None:
    """A GIF of 5 KB that says that it has 16000x15000 pixels took more than 2 GB."""
    data = content(seeds, "picture.gif").replace(struct.pack("<HH", 96, 64), struct.pack("<HH", 16000, 15000), 1)
    ways = ("auto", "deep", "pipe")
    jobs = [Case(number, "picture.gif", "larger", way, {"a.gif": data}, False) for number, way in enumerate(ways)]
    for outcome in run(seeds, 0, jobs):
        assert (outcome.kind, outcome.frames) == ("error", 0), outcome.words
        assert outcome.memory < 100 << 20


def test_videos_that_are_too_large_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 6100, 6000, "yuv420p"
        for packet in (*stream.encode(av.VideoFrame(6100, 6000, "yuv420p")), *stream.encode(None)):
            container.mux(packet)
    sentence = "has frames of 6100x6000, above the limit of 36 million pixels; downscale them first"
    with pytest.raises(VideoError, match=f"a.mkv {sentence}"):
        open_video(path)
    with path.open("rb") as file, pytest.raises(VideoError, match=f"standard input {sentence}"):
        open_pipe(file)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_images_that_are_too_large_are_refused(tmp_path: Path, suffix: str) -> None:
    """Pillow refuses from 179 million pixels on, which in three copies of it are 1.6 GB."""
    wide = Image.new("1", (12000, 6000))
    for number in range(2):
        wide.save(tmp_path / f"{number}{suffix}")
    with pytest.raises(VideoError, match=r"0\.\w+ has frames of 12000x6000, above the limit of 67 million pixels"):
        open_video(tmp_path)


def test_16_bits_become_8_to_the_nearest(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "0.png")
    read = open_video(tmp_path).read([0])[0].numpy()
    assert np.array_equal(read, np.repeat(np.rint(values / 257).astype(np.uint8)[..., None], 3, 2))
    assert np.array_equal(load_16bit(tmp_path / "0.png"), np.repeat(values[..., None], 3, 2))


def test_what_damage_is_made_of_does_not_depend_on_what_was_read_before(tmp_path: Path) -> None:
    """Frames that a decoder says it has made up were others after a seek than in order."""
    data = encode(tmp_path / "whole.mkv", "libx264", {"g": "12", "bf": "3", "threads": "1"}).read_bytes()
    path, seen = tmp_path / "a.mkv", 0
    for part in range(4, 10):
        at = len(data) * part // 12
        path.write_bytes(data[:at] + bytes((37 * i + at) % 256 for i in range(40)) + data[at + 40 :])
        with av.open(str(path)) as container:
            frames = [(frame.is_corrupt, frame.to_ndarray(format="rgb24")) for frame in stop_at_damage(container)]
        for number in [n for n, (corrupt, _) in enumerate(frames) if corrupt and n > 24][:3]:
            seen += 1
            assert np.array_equal(open_video(path, "pyav").read([number])[0].numpy(), frames[number][1])
    assert seen


def stop_at_damage(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    stream = container.streams.video[0]
    stream.thread_type = "SLICE"
    with suppress(av.FFmpegError):
        yield from container.decode(stream)
