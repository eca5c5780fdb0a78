"""Every frame read equals that of sequential decoding, rotated for display; otherwise reading fails with an error."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from src.errors import VideoError
from src.video.decoding import stop_at_damage
from src.video.reader import FileReader, open_video
from src.video.writer import VideoWriter
from tests.video.clips import encode, find_sample, make_scene

SHORT_FILES = [
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


LONG_FILES = [
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


DECORD_FILES = [
    "odd/dovi_avc_1080p60_burnt_frame_numbers.mp4",
    "odd/flir_vfr_h264.mp4",
    "odd/mpeg4_190x240.mp4",
]  # and all but one of train/


def decode_sequentially(path: Path) -> Iterator[tuple[Fraction, np.ndarray]]:
    """Yield the time and pixels of each frame, decoded sequentially with PyAV alone."""
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


def check_frames(path: Path, backend: str = "auto", seed: int = 0, most: int | None = None) -> None:
    """Compare frames read in order (at most ``most``) and at random with :func:`decode_sequentially`."""
    truth = [(moment, checksum(pixels)) for moment, pixels in decode_sequentially(path)]
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
            assert reader.backend == backend  # no fallback


@pytest.mark.parametrize("name", SHORT_FILES)
def test_frames_equal_sequential_decoding(shared: Path, name: str) -> None:
    check_frames(find_sample(shared, name), most=8)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "pyav"])
@pytest.mark.parametrize("name", SHORT_FILES + LONG_FILES)
def test_frames_of_every_file(shared: Path, name: str, backend: str) -> None:
    check_frames(find_sample(shared, name), backend, seed=1)


@pytest.mark.parametrize("name", [*SHORT_FILES, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG_FILES)])
def test_decord_is_used_only_where_exact(shared: Path, name: str) -> None:
    path = find_sample(shared, name)
    expected = name in DECORD_FILES or (name.startswith("train/") and "lofoten" not in name)
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
def test_visible_frames_and_display_sizes(shared: Path, name: str, count: int, size: tuple[int, int]) -> None:
    reader = open_video(find_sample(shared, name))
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
    assert open_video(find_sample(shared, name)).fps == fps


def test_rotation_agrees_with_decord(shared: Path) -> None:
    path = find_sample(shared, "odd/rotated90_h264.mov")
    import decord

    expected = decord.VideoReader(str(path), num_threads=1).get_batch([0, 1, 2]).asnumpy()
    assert np.array_equal(open_video(path).read([0, 1, 2]).numpy(), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odd/audio_only.mp4", "has no readable video stream"),
        ("odd/zero_frames_init_segment.mp4", "has no frames"),
        ("odd/raw_h264_error_resolution_change.264", "changes from 352x288 to 640x480 at frame 2"),
    ],
)
def test_unreadable_videos_are_refused(shared: Path, name: str, message: str) -> None:
    path = find_sample(shared, name)
    with pytest.raises(VideoError, match=message) as caught:
        open_video(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_frames_before_damage_are_readable(shared: Path) -> None:
    reader = open_video(find_sample(shared, "odd/corrupted_h264.mp4"))
    frames = reader.frames()
    intact = [next(frames) for _ in range(28)]
    with pytest.raises(VideoError, match=r"corrupted_h264.mp4 breaks at frame 28 of 50"):
        next(frames)
    with pytest.raises(VideoError, match="breaks at frame 28 of 50"):
        reader.read([40])
    assert torch.equal(reader.read([27, 3]), torch.stack([intact[27], intact[3]]))  # still readable


def test_long_file_opens_without_decoding(shared: Path) -> None:
    path = find_sample(shared, "odd/long_10883_frames_1080p.mp4")
    start = time.monotonic()
    reader = open_video(path)
    assert len(reader) == 10883
    assert torch.equal(reader.read([10003]), open_video(path, backend="pyav").read([10003]))
    assert time.monotonic() - start < 10  # decoding all of it takes minutes


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
def test_unusual_streams_are_read_exactly(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], backend: str
) -> None:
    path = encode(tmp_path / name, codec, options)
    assert open_video(path).backend == backend
    check_frames(path)
    check_frames(path, "pyav", seed=1)


@pytest.mark.parametrize("name", ["raw.h264", "decode_times_only.avi"])
def test_streams_without_timestamps(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, "libx264", {"g": "12", "bf": "3"}, count=40)
    with av.open(str(path)) as container:
        truth = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    reader = open_video(path)
    assert reader.fps == 25
    assert reader.times == tuple(Fraction(i, 25) for i in range(40))
    wanted = [30, 2, 3, 39, 0]
    assert np.array_equal(reader.read(wanted).numpy(), truth[wanted])


@pytest.mark.parametrize("rotation", [(d, h, v) for d in (0, 90, 180, 270) for h, v in ((False, False), (True, False))])
def test_all_eight_orientations(tmp_path: Path, rotation: tuple[int, bool, bool]) -> None:
    path = encode(tmp_path / "turned.mp4", "libx264rgb", {"qp": "0"}, count=3, rotation=rotation)
    upright = np.rot90(make_scene(3)[2], rotation[0] // 90)
    expected = upright[:, ::-1] if rotation[1] else upright
    reader = open_video(path)
    assert reader.size == expected.shape[:2]
    assert np.array_equal(reader.read([2])[0].numpy(), expected)


def test_truncated_file_is_read_up_to_its_end(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mkv", "libx264", {"g": "12", "bf": "3"})
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert 10 < len(open_video(cut)) < 60
    check_frames(cut)


@pytest.mark.parametrize("content", [b"", b"not a video " * 100, bytes(range(256)) * 50])
def test_other_data_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "holiday.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"holiday.mp4 cannot be read as video"):
        open_video(path)
    with pytest.raises(VideoError, match=r"gone.mp4 does not exist"):
        open_video(tmp_path / "gone.mp4")


def test_silent_source_times_out(tmp_path: Path) -> None:
    path = tmp_path / "stuck.mp4"
    os.mkfifo(path)  # opening it blocks until a writer connects
    start = time.monotonic()
    with pytest.raises(VideoError, match=r"made no progress for 0.3 s"):
        open_video(path, timeout=0.3)
    assert time.monotonic() - start < 5


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
def test_color_description_is_read(shared: Path, name: str, depth: int, tags: tuple[int, ...]) -> None:
    path = find_sample(shared, name)
    deep, plain = open_video(path, deep=True), open_video(path)
    for reader, bits in ((deep, depth), (plain, 8)):
        signal = reader.signal
        assert (signal.depth, signal.matrix, signal.range, signal.primaries, signal.transfer) == (bits, *tags)
    frame = next(deep.frames())
    assert frame.dtype == (torch.uint8 if depth == 8 else torch.uint16)
    assert tuple(frame.shape) == (*deep.size, 3)
    deep_values, plain_values = frame.float() / (2**depth - 1), next(plain.frames()).float() / 255
    assert float((deep_values - plain_values).abs().mean()) < 0.01
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
def test_end_of_the_last_frame(shared: Path, name: str, end: Fraction | None) -> None:
    reader = open_video(find_sample(shared, name))
    expected = reader.times[-1] + 1 / reader.fps if end is None else end
    assert abs(reader.end - expected) < Fraction(1, 1000)


def test_reading_starts_quickly_at_any_frame(shared: Path) -> None:
    reader = open_video(find_sample(shared, "odd/long_10883_frames_1080p.mp4"))
    start = time.monotonic()
    frame = next(reader.frames(10000))
    assert time.monotonic() - start < 5
    assert torch.equal(frame, reader.read([10000])[0])


@pytest.mark.parametrize("error", [IndexError("list index out of range"), av.error.InvalidDataError(1, "cut")])
def test_decoder_is_flushed_at_damage(tmp_path, error):
    """PyAV raises IndexError for a packet of a stream that starts in the middle of a file."""
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
