"""Properties of real files that are easily lost: side data, grey of limited range, several streams, cropping."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageCms

from src.data.integrity import check_clip
from src.engine.file_job import FileRestoration
from src.engine.options import RestoreOptions
from src.errors import VideoError
from src.papers.baselines import Bicubic
from src.video.colorspace import Signal, from_rgb, to_rgb
from src.video.decode_timeout import Watchdog
from src.video.dolby_vision import has_dolby_vision
from src.video.pipe import open_pipe
from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.video.clips import encode, make_scene
from tests.video.properties import add_to_sample_entry, hide_edges, write_images, write_streams

DEFAULT = Disposition.default


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "mjpeg"), ("a.avi", "mjpeg"), ("a.mov", "mjpeg"), ("a.mov", "png")]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_side_data_unknown_to_pyav(tmp_path: Path, name: str, codec: str, orientation: int) -> None:
    """EXIF metadata is dropped by name; the orientation in it is applied."""
    frames = write_images(tmp_path / name, codec, orientation)
    if orientation == 6:
        frames = np.rot90(frames, -1, (1, 2))
    with open_video(tmp_path / name) as reader:
        assert reader.signal.dropped == ("EXIF metadata",)
        assert reader.size == frames.shape[1:3]
        pixels = reader.read(range(4))
    error = np.abs(pixels.numpy().astype(int) - frames)
    assert error.max() == 0 if codec == "png" else error.mean() < 4
    assert check_clip(tmp_path / name, read=True).fault == ""
    if name == "a.mkv":
        with (tmp_path / name).open("rb") as file, open_pipe(file) as pipe:
            assert pipe.signal.dropped == ("EXIF metadata",)
            assert torch.equal(torch.stack(list(pipe.frames())), pixels)


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (lambda: av.VideoFrame(16, 16, "xyz12le").to_ndarray(), "xyz12le"),
        (lambda: av.VideoFrame(16, 16).side_data[0], "index out of range"),
        (lambda: av.VideoFrame(16, 16, "no format"), "no format"),
    ],
)
def test_errors_of_pyav_become_sentences(work, sentence) -> None:
    with pytest.raises(VideoError, match=f"^film.mp4 cannot be read as video: .*{sentence}"):
        Watchdog(Path("film.mp4"), 10).run(work)


def make_grey(pixel_format: str, luma: np.ndarray, color_range: int) -> av.VideoFrame:
    """Make a grey frame of ``(H, W)`` luma."""
    frame = av.VideoFrame(luma.shape[1], luma.shape[0], pixel_format)
    bits = frame.format.components[0].bits
    plane = frame.planes[0]
    rows = np.zeros((plane.height, plane.line_size // (1 if bits == 8 else 2)), np.uint8 if bits == 8 else "<u2")
    rows[:, : luma.shape[1]] = luma
    plane.update(rows.tobytes())
    frame.color_range = color_range
    return frame


@pytest.mark.parametrize("color_range", [0, 1, 2])
@pytest.mark.parametrize("depth", [8, 10, 12])
def test_grey_comes_out_as_it_went_in(depth: int, color_range: int) -> None:
    """Black, white and every level between survive, in limited range and in full range, tagged or not."""
    unit, peak = 2 ** (depth - 8), 2**depth - 1
    low, high = (16 * unit, 235 * unit) if color_range == 1 else (0, peak)
    luma = np.linspace(low, high, 64 * 64).round().astype(int).reshape(64, 64)
    frame = make_grey("gray" if depth == 8 else f"gray{depth}le", luma, color_range)
    rgb = to_rgb(frame, depth, VideoReformatter())
    expected = ((luma - low) * (peak / (high - low))).round()
    assert rgb.dtype == (np.uint8 if depth == 8 else np.uint16)
    assert np.abs(rgb - expected[..., None]).max() <= (0 if depth == 8 else 1)  # ties
    shallow = np.abs(to_rgb(frame, 8, VideoReformatter()) - expected[..., None] * (255 / peak)).max()
    assert shallow <= (0.65 if color_range == 1 or depth == 8 else 1.5)  # swscale truncates full range
    signal = Signal.from_frame(frame, deep=True)
    assert (signal.depth, signal.range) == (depth, color_range or 2)
    coded = from_rgb(rgb, "yuv420p" if depth == 8 else f"yuv420p{depth}le", signal, VideoReformatter())
    assert np.abs(read_luma(coded) - luma).max() <= (0 if color_range == 1 or depth == 8 else 1)


def test_side_data_known_to_pyav_is_dropped_by_name(tmp_path: Path) -> None:
    """An ICC profile of JPEGs, and a mastering display whose luminance is out of range, so that primaries are left."""
    path = tmp_path / "icc.avi"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        file = io.BytesIO()
        Image.new("RGB", (64, 48), "red").save(file, "JPEG", icc_profile=profile)
        packet = av.Packet(file.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 25)
        packet.is_keyframe = True
        container.mux(packet)
    with open_video(path) as reader:
        assert reader.signal.dropped == ("an ICC profile",)

    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L({},1)"
    for luminance, dropped in ((10_000_000, ()), (10_000, ("incomplete metadata of the mastering display",))):
        path = tmp_path / f"{luminance}.mkv"
        options = {"x265-params": f"log-level=none:pools=none:master-display={display.format(luminance)}"}
        encode(path, "libx265", options, count=2)
        with open_video(path) as reader:
            assert reader.signal.dropped == dropped
            assert bool(reader.signal.mastering) == (not dropped)


def read_luma(frame: av.VideoFrame) -> np.ndarray:
    plane = frame.planes[0]
    kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    return np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width].astype(int)


@pytest.mark.parametrize(
    ("depth", "pixels", "codec"), [(8, "gray", "h264"), (10, "gray10le", "hevc"), (12, "gray12le", "hevc")]
)
def test_grey_files_of_limited_range(tmp_path: Path, depth: int, pixels: str, codec: str) -> None:
    """Luma of a grey file equals that of the file written from it, and its tag."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    luma = np.repeat([[16, 71, 126, 235]], 48, 0).repeat(16, 1) * 2 ** (depth - 8)
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.color_range = 1
        for number in range(3):
            frame = make_grey(pixels, luma, 1)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with (
        open_video(source, deep=True) as reader,
        VideoWriter(target, reader.fps, codec, 0, signal=reader.signal, source_size=reader.size) as writer,
    ):
        assert reader.read([1])[0, 0, ::16, 0].tolist()[::3] == [0, 2**depth - 1]
        for frame in reader.frames():
            writer.write(frame)
    with av.open(str(target)) as container:
        for coded in container.decode(video=0):
            assert coded.color_range == 1
            assert np.abs(read_luma(coded) - luma).max() <= 2 ** (depth - 8) // 2  # HEVC is not lossless


SMALL, LARGE = (48, 64), (96, 128)
# Streams, and the number of the main one.
STREAMS = {
    "thumbnail first": ([("mjpeg", SMALL, 1, 39, 0), ("libx264", LARGE, 10, 126, DEFAULT)], 1),
    "large picture first": ([("mjpeg", LARGE, 1, 39, DEFAULT), ("libx264", SMALL, 10, 126, DEFAULT)], 1),
    "stills beside a video": ([("libx264", LARGE, 2, 39, DEFAULT), ("libx264", SMALL, 24, 126, DEFAULT)], 1),
    "default": ([("libx264", LARGE, 10, 39, 0), ("libx264", SMALL, 10, 126, DEFAULT)], 1),
    "largest": ([("libx264", SMALL, 10, 39, DEFAULT), ("libx264", LARGE, 10, 126, DEFAULT)], 1),
    "longest": ([("libx264", LARGE, 5, 39, DEFAULT), ("libx264", LARGE, 10, 126, DEFAULT)], 1),
    "all equal": ([("libx264", LARGE, 10, 126, DEFAULT), ("libx264", LARGE, 10, 39, DEFAULT)], 0),
}


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("case", STREAMS)
def test_main_video_stream_is_read(tmp_path: Path, case: str, suffix: str) -> None:
    streams, main = STREAMS[case]
    path = write_streams(tmp_path / f"a{suffix}", *streams)
    for number in (None, 0, 1):
        expected = main if number is None else number
        codec, (height, width), count, value, _ = streams[expected]
        with open_video(path, stream=number) as reader:
            assert (reader.stream, len(reader), reader.size) == (expected, count, (height, width))
            note = f"has 2 video streams, of which stream {expected} ({codec.removeprefix('libx')}"
            assert reader.notes[0].replace("h264", "264").startswith(note)
            assert f"stream={1 - expected} (" in reader.notes[0]
            assert reader.backend == "pyav"
            middle = [count // 2]
            for frame in (*reader.frames(), *reader.read(middle)):
                assert abs(frame.float().mean() - value) < 2
    with pytest.raises(VideoError, match=r"has no video in stream 7; choose stream=0 \(.*\), stream=1 \("):
        open_video(path, stream=7)
    with pytest.raises(VideoError, match=r"decord cannot read .* exactly because it "):
        open_video(path, "decord")


def test_pipes_choose_the_default_stream(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "a.mkv", *STREAMS["thumbnail first"][0])
    for number, value in ((None, 126), (0, 39)):
        with path.open("rb") as file, open_pipe(file, stream=number) as pipe:
            assert "has 2 video streams" in pipe.notes[0]
            assert all(abs(frame.float().mean() - value) < 2 for frame in pipe.frames())


@pytest.mark.parametrize("stream", [None, 0])
def test_restored_video_is_named_after_the_stream_read(tmp_path: Path, stream: int | None) -> None:
    path = write_streams(tmp_path / "in.mkv", *STREAMS["default"][0])
    options = RestoreOptions(stream=stream, codec="ffv1")
    job = FileRestoration(Bicubic(scale=1), path, tmp_path / "out.mkv", options, torch.device("cpu"))
    job.run(job.journal.list_missing(job.parts))
    job.finish()
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [video.metadata["title"] for video in container.streams.video] == [f"stream {job.reader.stream}"]
    with open_video(tmp_path / "out.mkv") as reader:
        assert abs(reader.read([3]).float().mean() - (126 if stream is None else 39)) < 2


@pytest.mark.parametrize(
    ("name", "edges"),
    [
        ("a.mp4", {"top": 16, "bottom": 16}),
        ("a.mp4", {"left": 2, "right": 4, "top": 6, "bottom": 10}),
        ("a.mov", {"left": 3, "top": 5}),
        ("a.mkv", {"top": 6, "bottom": 10}),
        ("a.mkv", {"left": 3, "top": 5}),
    ],
)
def test_cropping_of_the_container_is_applied(tmp_path: Path, name: str, edges: dict[str, int]) -> None:
    scene = make_scene(6)
    with VideoWriter(tmp_path / name, Fraction(25), "lossless") as writer:
        for frame in scene:
            writer.write(frame)
    path = hide_edges(tmp_path / name, **edges)
    left, right, top, bottom = (edges.get(edge, 0) for edge in ("left", "right", "top", "bottom"))
    shown = torch.from_numpy(scene[:, top : 96 - bottom, left : 128 - right].copy())
    size = f"{shown.shape[2]}x{shown.shape[1]}"
    with open_video(path) as reader:
        assert reader.size == shown.shape[1:3]
        assert reader.notes == (f"is cropped from 128x96 to {size}, as its container demands",)
        assert torch.equal(reader.read(range(6)), shown)
        assert torch.equal(torch.stack(list(reader.frames())), shown)
    assert any("is cropped" in note for note in check_clip(path, read=False).notes)
    with pytest.raises(VideoError, match="exactly because it is cropped by its container"):
        open_video(path, "decord")
    if path.suffix == ".mkv":
        with path.open("rb") as file, open_pipe(file) as pipe:
            assert (pipe.size, pipe.notes) == (shown.shape[1:3], reader.notes)
            assert torch.equal(torch.stack(list(pipe.frames())), shown)


def test_frames_are_cropped_before_rotation(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "libx264", {}, count=3, rotation=(90, False, False))
    with av.open(str(path)) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with open_video(hide_edges(path, left=2, right=4, top=6, bottom=10)) as reader:
        assert reader.size == (122, 80)
        for frame, pixels in zip(reader.frames(), stored, strict=True):
            turned = np.rot90(pixels[6:86, 2:124])
            assert np.array_equal(frame.numpy(), turned) or np.array_equal(frame.numpy(), np.rot90(turned, 2))


@pytest.mark.parametrize("name", [b"dvcC", b"dvvC"])
def test_dolby_vision_of_the_container_alone_is_known(tmp_path: Path, name: bytes) -> None:
    path = encode(tmp_path / "a.mp4", "libx264", {}, count=3)
    assert not has_dolby_vision(path)
    with open_video(add_to_sample_entry(path, (32).to_bytes(4) + name + bytes(24))) as reader:
        assert reader.signal.dropped == ("Dolby Vision metadata",)
        assert len(reader.read([0, 1, 2])) == 3


def test_dolby_vision_of_damaged_files_is_not_looked_for_in_vain(tmp_path: Path) -> None:
    for number, content in enumerate([b"", b"\0\0\0\1free", b"\0\0\0\0moov", b"\0\0\0\1moov\0", bytes(5)]):
        (tmp_path / f"{number}.mp4").write_bytes(content)
        assert not has_dolby_vision(tmp_path / f"{number}.mp4")
    (tmp_path / "a.mkv").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(50) + b"\x41\xe7\x84dvcC")
    assert has_dolby_vision(tmp_path / "a.mkv")


@pytest.mark.parametrize("kind", ["folder", "webp"])
def test_images_have_no_streams_to_choose(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("frames" if kind == "folder" else "a.webp")
    pictures = [Image.fromarray(frame) for frame in make_scene(2)]
    if kind == "folder":
        path.mkdir()
        pictures[0].save(path / "0.png")
    else:
        pictures[0].save(path, save_all=True, append_images=pictures[1:])
    with pytest.raises(VideoError, match=r"is not a container of several streams: leave stream=0 out$"):
        open_video(path, stream=0)


@pytest.mark.parametrize("rotation", [0, 90])
def test_the_shape_of_pixels_is_that_of_the_upright_frame(tmp_path: Path, rotation: int) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        if rotation:
            stream.set_display_rotation(rotation)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    with open_video(tmp_path / "a.mp4") as reader:
        assert (reader.size, reader.aspect) == (((48, 32), Fraction(3, 4)) if rotation else ((32, 48), Fraction(4, 3)))
