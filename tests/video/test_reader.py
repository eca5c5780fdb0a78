"""What the reader returns is what decoding from the first frame on returns, turned as the file asks, or an error."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
import torch
from PIL import Image

from src.errors import VideoError
from src.video.decoding import stop_at_damage
from src.video.discovery import find_videos
from src.video.reader import FileReader, open_video
from src.video.writer import VideoWriter

QUICK = [
    "odd/dolbyvision_hlg_hevc10_rot90.mov",
    "odd/iphone_livephoto_hevc_rot90_5streams.mov",
    "odd/mjpeg_422_camera.avi",
    "odd/mpeg4_190x240.mp4",
    "odd/roadtrip_vp9_10bit_hidden_frames.webm",
    "odd/rotate_and_reflect.mp4",
    "odd/rotated90_h264.mov",
    "odd/two_video_streams_one_empty.mp4",
    "odd/vp9_odd_161x121.webm",
    "train/davis_rollercoaster.mp4",
    "train/vmaf_seeking.mp4",
]
LONG = [
    "odd/dovi_avc_1080p60_burnt_frame_numbers.mp4",
    "odd/flir_vfr_h264.mp4",
    "odd/hdr10_av1_portrait.mp4",
    "odd/no_duration_vp9.webm",
    "odd/sony_a7m3_avchd.mts",
    "odd/vp9_in_mp4_60fps_portrait.mp4",
    "train/chronodepth_elephant.mp4",
    "train/davis_bear.mp4",
    "train/davis_paragliding_launch.mp4",
    "train/dover_17734.mp4",
    "train/editly_lofoten.mp4",
    "train/editly_palawan.mp4",
    "train/gopro_karma_drone.mp4",
    "train/pose2sim_cam03_60fps.mp4",
    "train/sam2_01_dog.mp4",
    "train/sam2_03_blocks.mp4",
    "train/sam2_05_juggle.mp4",
    "train/sam2_bedroom.mp4",
]
BY_DECORD = [
    "odd/dovi_avc_1080p60_burnt_frame_numbers.mp4",
    "odd/flir_vfr_h264.mp4",
    "odd/mpeg4_190x240.mp4",
    "odd/two_video_streams_one_empty.mp4",
]  # and all of train/ but one


def sample(shared: Path, name: str) -> Path:
    path = shared / "data" / name
    if not path.exists():
        pytest.skip(f"needs {name}")
    return path


def shown(path: Path) -> Iterator[tuple[Fraction, np.ndarray]]:
    """When each frame is shown, and its pixels, as plain sequential decoding gives them."""
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            pixels = frame.to_ndarray(format="rgb24")
            if path.stem == "rotate_and_reflect":
                pixels = pixels.transpose(1, 0, 2)
            elif "rot" in path.stem:  # a quarter turn clockwise
                pixels = np.rot90(pixels, -1)
            yield Fraction(frame.pts) * frame.time_base, pixels


def checksum(frame: np.ndarray | torch.Tensor) -> bytes:
    return np.ascontiguousarray(frame).tobytes()[:: 1 + frame.shape[1] // 97]


def agree(path: Path, backend: str = "auto", seed: int = 0, most: int | None = None) -> None:
    """Every frame in order (at most so many), and frames out of order, are those of :func:`shown`."""
    truth = [(moment, checksum(pixels)) for moment, pixels in shown(path)]
    with open_video(path, backend=backend) as reader:
        assert [moment for moment, _ in truth] == list(reader.times)
        for (_, expected), frame in zip(truth[:most], reader.frames(stop=most), strict=True):
            assert frame.dtype == torch.uint8
            assert tuple(frame.shape) == (*reader.size, 3)
            assert checksum(frame) == expected
        rng, count = np.random.default_rng(seed), len(truth)
        for _ in range(4):
            start = int(rng.integers(count))
            wanted = [*range(start, min(start + 3, count)), *rng.integers(count, size=2).tolist(), start]
            for index, frame in zip(wanted, reader.read(wanted), strict=True):
                assert checksum(frame) == truth[index][1], f"frame {index}"
        assert reader.backend in (backend, "decord", "pyav")
        if backend != "auto":
            assert reader.backend == backend  # it has not fallen back


@pytest.mark.parametrize("name", QUICK)
def test_any_frame_is_the_one_that_sequential_decoding_shows(shared: Path, name: str) -> None:
    agree(sample(shared, name), most=8)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "pyav"])
@pytest.mark.parametrize("name", QUICK + LONG)
def test_any_frame_of_every_file(shared: Path, name: str, backend: str) -> None:
    agree(sample(shared, name), backend, seed=1)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_decord_reads_only_what_it_reads_right(shared: Path, name: str) -> None:
    path = sample(shared, name)
    expected = name in BY_DECORD or (name.startswith("train/") and "lofoten" not in name)
    assert open_video(path).backend == ("decord" if expected else "pyav")
    if not expected:
        with pytest.raises(VideoError, match=r"decord cannot read .* exactly because it "):
            open_video(path, backend="decord")


@pytest.mark.parametrize(
    ("name", "count", "size"),
    [
        ("train/editly_lofoten.mp4", 105, (750, 1024)),  # of 106 packets
        ("odd/roadtrip_vp9_10bit_hidden_frames.webm", 72, (240, 426)),  # of 80
        ("odd/dolbyvision_hlg_hevc10_rot90.mov", 4, (1280, 720)),  # of 5
        ("odd/sony_a7m3_avchd.mts", 13, (1080, 1920)),  # of 26 fields
        ("odd/rotate_and_reflect.mp4", 30, (1080, 720)),
        ("odd/no_duration_vp9.webm", 74, (720, 1280)),
    ],
)
def test_frames_are_counted_as_shown_and_sizes_given_as_displayed(
    shared: Path, name: str, count: int, size: tuple[int, int]
) -> None:
    reader = open_video(sample(shared, name))
    assert (len(reader), reader.size) == (count, size)
    assert reader.interlaced == name.endswith(".mts")


@pytest.mark.parametrize(
    ("name", "fps"),
    [
        ("train/sam2_01_dog.mp4", Fraction(30000, 1001)),
        ("train/dover_17734.mp4", Fraction(233 * 30000, 234 * 1001)),  # one frame is missing
        ("odd/two_video_streams_one_empty.mp4", Fraction(30000, 1001)),  # 31.0 by its header
        ("odd/iphone_livephoto_hevc_rot90_5streams.mov", Fraction(21000, 701)),
    ],
)
def test_frame_rate_is_exact(shared: Path, name: str, fps: Fraction) -> None:
    assert open_video(sample(shared, name)).fps == fps


def test_pyav_turns_as_decord_does(shared: Path) -> None:
    path = sample(shared, "odd/rotated90_h264.mov")
    import decord

    expected = decord.VideoReader(str(path), num_threads=1).get_batch([0, 1, 2]).asnumpy()
    assert np.array_equal(open_video(path).read([0, 1, 2]).numpy(), expected)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("odd/audio_only.mp4", "has no readable video stream"),
        ("odd/zero_frames_init_segment.mp4", "has no frames"),
        ("odd/raw_h264_error_resolution_change.264", "changes from 352x288 to 640x480 at frame 2"),
    ],
)
def test_what_is_no_clip_is_refused_by_name(shared: Path, name: str, sentence: str) -> None:
    path = sample(shared, name)
    with pytest.raises(VideoError, match=sentence) as caught:
        open_video(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_file_gives_what_is_good_and_names_where_it_breaks(shared: Path) -> None:
    reader = open_video(sample(shared, "odd/corrupted_h264.mp4"))
    frames = reader.frames()
    good = [next(frames) for _ in range(28)]
    with pytest.raises(VideoError, match=r"corrupted_h264.mp4 breaks at frame 28 of 50"):
        next(frames)
    with pytest.raises(VideoError, match="breaks at frame 28 of 50"):
        reader.read([40])
    assert torch.equal(reader.read([27, 3]), torch.stack([good[27], good[3]]))  # it can still be read before that


def test_a_long_file_is_not_decoded_to_be_opened(shared: Path) -> None:
    path = sample(shared, "odd/long_10883_frames_1080p.mp4")
    start = time.monotonic()
    reader = open_video(path)
    assert len(reader) == 10883
    assert torch.equal(reader.read([10003]), open_video(path, backend="pyav").read([10003]))
    assert time.monotonic() - start < 10  # decoding it all takes minutes


# ---- made here, so that these need no shared folder


def scene(count: int, height: int = 96, width: int = 128) -> list[np.ndarray]:
    coarse = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    whole = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    return [np.ascontiguousarray(whole[i : i + height, 2 * i : 2 * i + width]) for i in range(count)]


def encode(
    path: Path, codec: str, options: dict[str, str], count: int = 60, turn: tuple[int, bool, bool] | None = None
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        pixels = "rgb24" if codec == "libx264rgb" else "yuv420p"
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        if turn:
            stream.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        for index, frame in enumerate(scene(count)):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format=pixels)
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options", "backend"),
    [
        ("plain.mp4", "libx264", {"g": "12", "bf": "3"}, "decord"),
        ("plain.mkv", "libx264", {"g": "12", "bf": "3"}, "decord"),
        ("short.mp4", "libx264", {"g": "2", "bf": "3", "keyint_min": "1"}, "decord"),
        ("open.mp4", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}, "pyav"),
        ("open_hevc.mp4", "libx265", {"g": "12", "x265-params": "open-gop=1:log-level=none"}, "pyav"),
        ("refresh.mp4", "libx264", {"g": "12", "bf": "0", "x264-params": "intra-refresh=1"}, "pyav"),
        ("transport.ts", "libx264", {"g": "12", "bf": "3"}, "pyav"),
        ("woven.ts", "libx264", {"g": "12", "x264-params": "tff=1"}, "pyav"),
        ("programme.mpg", "mpeg2video", {"g": "12", "bf": "2"}, "pyav"),
        ("packed.avi", "mpeg4", {"g": "12", "bf": "2"}, "pyav"),
        ("hidden.webm", "libvpx", {"g": "30", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "300k"}, "pyav"),
    ],
)
def test_awkward_streams_are_read_right(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], backend: str
) -> None:
    path = encode(tmp_path / name, codec, options)
    assert open_video(path).backend == backend
    agree(path)
    agree(path, "pyav", seed=1)


@pytest.mark.parametrize("name", ["raw.h264", "decode_times_only.avi"])
def test_streams_without_times_are_read_by_counting(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, "libx264", {"g": "12", "bf": "3"}, count=40)
    with av.open(str(path)) as container:
        truth = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    reader = open_video(path)
    assert reader.fps == 25
    assert reader.times == tuple(Fraction(i, 25) for i in range(40))
    wanted = [30, 2, 3, 39, 0]
    assert np.array_equal(reader.read(wanted).numpy(), truth[wanted])


@pytest.mark.parametrize("turn", [(d, h, v) for d in (0, 90, 180, 270) for h, v in ((False, False), (True, False))])
def test_all_eight_orientations(tmp_path: Path, turn: tuple[int, bool, bool]) -> None:
    path = encode(tmp_path / "turned.mp4", "libx264rgb", {"qp": "0"}, count=3, turn=turn)
    upright = np.rot90(scene(3)[2], turn[0] // 90)
    expected = upright[:, ::-1] if turn[1] else upright
    reader = open_video(path)
    assert reader.size == expected.shape[:2]
    assert np.array_equal(reader.read([2])[0].numpy(), expected)


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mkv", "libx264", {"g": "12", "bf": "3"})
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert 10 < len(open_video(cut)) < 60
    agree(cut)


@pytest.mark.parametrize("content", [b"", b"not a video " * 100, bytes(range(256)) * 50])
def test_what_is_no_video_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "holiday.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"holiday.mp4 cannot be read as video"):
        open_video(path)
    with pytest.raises(VideoError, match=r"gone.mp4 does not exist"):
        open_video(tmp_path / "gone.mp4")


def test_a_source_that_gives_nothing_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "stuck.mp4"
    os.mkfifo(path)  # opening it waits for somebody to write
    start = time.monotonic()
    with pytest.raises(VideoError, match=r"made no progress for 0.3 s"):
        open_video(path, timeout=0.3)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_a_reader_that_has_read_goes_into_workers(tmp_path: Path, backend: str) -> None:
    reader = open_video(encode(tmp_path / "clip.mp4", "libx264", {"g": "12"}), backend=backend)
    expected = reader.read(range(20))  # decoders are open now
    copy = pickle.loads(pickle.dumps(reader))
    assert torch.equal(copy.read(range(20)), expected)

    class Frames(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> torch.Tensor:
            return reader.read([index])[0]

    loader = torch.utils.data.DataLoader(Frames(), batch_size=10, num_workers=2, multiprocessing_context="fork")
    assert torch.equal(torch.cat(list(loader)), expected)
    assert torch.equal(reader.read([5]), expected[5:6])


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_a_forked_process_leaves_the_decoders_of_its_parent_alone(tmp_path: Path, backend: str) -> None:
    """In a fresh process, since a fork of one that other tests have filled with threads proves nothing."""
    path = encode(tmp_path / "clip.mp4", "libx264", {"g": "12"})
    fresh = multiprocessing.get_context("spawn").Process(target=read_and_fork, args=(path, backend))
    fresh.start()
    fresh.join()
    assert fresh.exitcode == 0


def read_and_fork(path: Path, backend: Literal["auto", "pyav"]) -> None:
    reader = open_video(path, backend=backend)
    frames = reader.frames()
    first, before = next(frames), reader.read([30])
    child = os.fork()
    if not child:
        second, again = next(frames).numpy(), reader.read([1, 30]).numpy()  # OpenMP does not survive a fork either
        same = np.array_equal(np.stack([second, before[0].numpy()]), again)
        frames.close()
        reader.close()
        del reader, frames
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(torch.stack([first, next(frames)]), reader.read([0, 1]))


def test_ranges_and_indices(tmp_path: Path) -> None:
    reader = open_video(encode(tmp_path / "clip.mp4", "libx264", {"g": "12"}))
    middle = torch.stack(list(reader.frames(13, 17)))
    assert torch.equal(middle, reader.read([13, 14, 15, 16]))
    assert len(list(reader.frames(57))) == 3
    assert reader.read([]).shape == (0, 96, 128, 3)
    assert reader.name == "clip"
    with pytest.raises(IndexError, match="frames 0 to 59, not 60"):
        reader.read([3, 60])
    reader.close()
    assert torch.equal(reader.read([13]), middle[:1])
    assert isinstance(reader, FileReader)


def folder(path: Path, frames: list[Image.Image], suffix: str = ".png") -> Path:
    path.mkdir(parents=True)
    for index, frame in enumerate(frames):
        frame.save(path / f"im{index + 1}{suffix}")
    return path


def test_folders_are_read_in_natural_order(tmp_path: Path) -> None:
    frames = scene(12, 20, 30)
    path = folder(tmp_path / "city", [Image.fromarray(frame) for frame in frames])
    (path / "notes.txt").write_text("not a frame")
    (path / "._im3.png").write_bytes(b"what a Mac leaves behind")
    reader = open_video(path)
    assert (len(reader), reader.size, reader.fps, reader.name, reader.backend) == (12, (20, 30), 25, "city", "frames")
    assert np.array_equal(reader.read([10, 1, 1]).numpy(), np.stack([frames[10], frames[1], frames[1]]))
    assert np.array_equal(torch.stack(list(reader.frames(2))).numpy(), np.stack(frames[2:]))
    assert open_video(path, fps=Fraction(24000, 1001)).times[11] == Fraction(11 * 1001, 24000)


def test_other_kinds_of_image_become_rgb(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    grey = Image.fromarray((ramp * 257).astype(np.uint16))
    clear = Image.fromarray(np.dstack([ramp] * 4).astype(np.uint8), "RGBA")
    path = folder(tmp_path / "kinds", [grey, clear, Image.fromarray(ramp.astype(np.uint8))])
    expected = np.repeat(ramp[..., None], 3, axis=2)
    assert all(np.array_equal(frame, expected) for frame in open_video(path).read([0, 1, 2]).numpy())


def test_folders_that_are_no_clip_are_refused(tmp_path: Path) -> None:
    small, large = Image.new("RGB", (8, 6)), Image.new("RGB", (10, 6))
    with pytest.raises(VideoError, match=r"im2.png is 10x6, but the first frame is 8x6"):
        open_video(folder(tmp_path / "sizes", [small, large])).read([1])
    mixed = folder(tmp_path / "mixed", [small, small])
    small.save(mixed / "im1.jpg")
    with pytest.raises(VideoError, match=r"mixed has .jpg and .png images"):
        open_video(mixed)
    (tmp_path / "bare").mkdir()
    with pytest.raises(VideoError, match="bare has no images"):
        open_video(tmp_path / "bare")
    broken = folder(tmp_path / "broken", [small, small])
    (broken / "im2.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    with pytest.raises(VideoError, match=r"im2.png cannot be read as an image"):
        list(open_video(broken).frames())


def test_clips_are_found(tmp_path: Path) -> None:
    small = Image.new("RGB", (8, 6))
    for name in ("clip10", "clip2", "deep/er/clip1"):
        folder(tmp_path / name, [small, small])
    folder(tmp_path / "poster", [small])
    folder(tmp_path / ".cache", [small, small])
    (tmp_path / "film.MOV").touch()
    (tmp_path / "readme.txt").touch()
    (tmp_path / "deep" / "again").symlink_to(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in find_videos(tmp_path)]
    assert found == ["clip2", "clip10", "deep/er/clip1", "film.MOV"]
    assert find_videos(tmp_path / "clip2") == [tmp_path / "clip2"]
    assert find_videos(tmp_path / "film.MOV") == [tmp_path / "film.MOV"]
    assert find_videos(tmp_path / "nothing") == []


def woven(path: Path, count: int = 20) -> Path:
    """A bar that moves by 3 pixels from field to field, lower fields first, as x264 takes frames that do not say."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "bff=1", "crf": "5", "g": "8"})
        stream.width, stream.height, stream.pix_fmt = 192, 96, "yuv420p"
        for index in range(count):
            picture = np.full((96, 192, 3), 40, np.uint8)
            for field in range(2):
                left = 10 + 3 * (2 * index + field)
                picture[1 - field :: 2, left : left + 24] = 200
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def comb(frames: torch.Tensor) -> float:
    """By how much more lines differ from the next than from the next but one."""
    luma = frames.double().mean(-1)
    near, far = luma[:, 1:] - luma[:, :-1], luma[:, 2:] - luma[:, :-2]
    return float(near.abs().mean() - far.abs().mean())


@pytest.mark.parametrize("name", ["woven.mkv", "woven.mp4", "woven.ts"])
def test_woven_fields_become_frames_of_one_time(tmp_path: Path, name: str) -> None:
    path = woven(tmp_path / name)
    plain, clear = open_video(path), open_video(path, deinterlace=True)
    assert plain.interlaced
    assert (len(clear), clear.times, clear.end, clear.size) == (len(plain), plain.times, plain.end, plain.size)
    before, after = torch.stack(list(plain.frames())), torch.stack(list(clear.frames()))
    assert len(after) == len(before) == 20
    assert comb(before) > 4
    assert comb(after[1:-1]) < 0.5
    for index in (5, 12):  # each is where the bar was in its first field
        bar = after[index, 1::2].double().mean((0, 2)) > 120
        assert abs(int(bar.nonzero()[0]) - (10 + 6 * index)) <= 1
    assert torch.equal(torch.stack(list(clear.frames(7, 9))), after[7:9])
    assert torch.equal(torch.stack(list(clear.frames(19))), after[19:])
    assert torch.equal(clear.read([3, 0]), after[[3, 0]])
    straight = encode(tmp_path / "straight.mp4", "libx264", {"g": "12"}, count=10)
    assert torch.equal(open_video(straight, deinterlace=True).read([4]), open_video(straight).read([4]))


def test_a_real_interlaced_file_loses_its_comb(shared: Path) -> None:
    path = sample(shared, "odd/sony_a7m3_avchd.mts")
    plain, clear = open_video(path), open_video(path, deinterlace=True)
    assert len(list(clear.frames())) == len(plain) == 13
    assert clear.times == plain.times


@pytest.mark.parametrize(
    ("name", "depth", "tags"),
    [
        ("odd/dolbyvision_hlg_hevc10_rot90.mov", 10, (9, 1, 9, 18)),
        ("odd/roadtrip_vp9_10bit_hidden_frames.webm", 10, (9, 1, 2, 2)),
        ("odd/mjpeg_422_camera.avi", 8, (5, 2, 2, 2)),
        ("odd/mpeg4_190x240.mp4", 8, (6, 2, 2, 6)),
        ("odd/vp9_odd_161x121.webm", 8, (2, 1, 2, 2)),
    ],
)
def test_what_samples_mean_is_told(shared: Path, name: str, depth: int, tags: tuple[int, ...]) -> None:
    path = sample(shared, name)
    deep, plain = open_video(path, deep=True), open_video(path)
    for reader, bits in ((deep, depth), (plain, 8)):
        signal = reader.signal
        assert (signal.depth, signal.matrix, signal.range, signal.primaries, signal.transfer) == (bits, *tags)
    frame = next(deep.frames())
    assert frame.dtype == (torch.uint8 if depth == 8 else torch.uint16)
    assert tuple(frame.shape) == (*deep.size, 3)
    fine, coarse = frame.float() / (2**depth - 1), next(plain.frames()).float() / 255
    assert float((fine - coarse).abs().mean()) < 0.01
    assert torch.equal(deep.read([1]).int()[0], next(deep.frames(1, 2)).int())


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("odd/flir_vfr_h264.mp4", Fraction(1703, 150)),  # 12 frames longer than the mean
        ("train/sam2_01_dog.mp4", None),
        ("odd/sony_a7m3_avchd.mts", None),
        ("odd/dovi_avc_1080p60_burnt_frame_numbers.mp4", None),
    ],
)
def test_the_end_of_the_last_frame(shared: Path, name: str, end: Fraction | None) -> None:
    reader = open_video(sample(shared, name))
    expected = reader.times[-1] + 1 / reader.fps if end is None else end
    assert abs(reader.end - expected) < Fraction(1, 1000)


def test_reading_starts_quickly_anywhere(shared: Path) -> None:
    reader = open_video(sample(shared, "odd/long_10883_frames_1080p.mp4"))
    start = time.monotonic()
    frame = next(reader.frames(10000))
    assert time.monotonic() - start < 5
    assert torch.equal(frame, reader.read([10000])[0])


@pytest.mark.parametrize("mode", ["rgb48be", "gray16be", "rgba64be"])
def test_images_of_16_bits(tmp_path: Path, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (2, 20, 30, 4)).astype(np.uint16)
    values = values[..., 0] if mode == "gray16be" else values[..., : 3 if mode == "rgb48be" else 4]
    (tmp_path / "deep 50%d").mkdir()
    for index, image in enumerate(values):
        codec = av.CodecContext.create("png", "w")
        codec.width, codec.height, codec.pix_fmt, codec.time_base = 30, 20, mode, Fraction(1, 25)
        packets = codec.encode(av.VideoFrame.from_ndarray(image, mode))
        (tmp_path / "deep 50%d" / f"{index}.png").write_bytes(b"".join(map(bytes, packets)))
    reader = open_video(tmp_path / "deep 50%d", deep=True)
    expected = np.repeat(values[..., None], 3, -1) if mode == "gray16be" else values[..., :3]
    assert (reader.signal.depth, reader.end) == (16, Fraction(2, 25))
    assert np.array_equal(reader.read([0, 1]).numpy(), expected)
    assert np.array_equal(np.stack([frame.numpy() for frame in reader.frames()]), expected)
    plain = open_video(tmp_path / "deep 50%d")
    assert (plain.signal.depth, plain.read([0]).dtype) == (8, torch.uint8)


@pytest.mark.parametrize("error", [IndexError("list index out of range"), av.error.InvalidDataError(1, "cut")])
def test_what_precedes_damage_is_given_whole(tmp_path, error):
    """PyAV fails with an IndexError at a packet whose stream begins in the middle of a file."""
    with VideoWriter(tmp_path / "film.mp4", Fraction(25)) as writer:
        for value in range(12):
            writer.write(torch.full((48, 64, 3), 20 * value, dtype=torch.uint8))
    with av.open(str(tmp_path / "film.mp4")) as container:

        def cut():
            for number, packet in enumerate(container.demux(container.streams.video[0])):
                if number == 7:
                    raise error
                yield packet

        frames = [frame for packet in stop_at_damage(cut()) for frame in packet.decode()]
    assert len(frames) == 7
