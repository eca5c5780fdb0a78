"""Written videos read back: pixels, colors, times and audio; failures leave no files behind."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from src.errors import VideoError
from src.video.colorspace import Signal
from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.video.clips import make_scene

NTSC = Fraction(30000, 1001)


def save(path: Path, frames: np.ndarray, fps: Fraction = NTSC, **options: object) -> Path:
    with VideoWriter(path, fps, **options) as writer:  # type: ignore[arg-type]
        for frame in frames:
            writer.write(frame)
    return path


@pytest.mark.parametrize("size", [(96, 128), (97, 131)])
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "lossless"), ("a.mkv", "lossless"), ("a.mkv", "ffv1")])
def test_lossless_codecs_are_exact(tmp_path: Path, name: str, codec: str, size: tuple[int, int]) -> None:
    frames = make_scene(30, *size)
    path = save(tmp_path / name, frames, codec=codec)
    order = [17, 3, 3, 29, *range(30)]
    for backend in ("pyav", "decord") if codec == "lossless" else ("pyav",):
        assert np.array_equal(open_video(path, backend=backend).read(order).numpy(), frames[order])


@pytest.mark.parametrize("size", [(96, 128), (97, 131)])
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.mov", "hevc"), ("a.mkv", "hevc")])
def test_frames_keep_order_and_rate(tmp_path: Path, name: str, codec: str, size: tuple[int, int]) -> None:
    frames = make_scene(40, *size)
    reader = open_video(save(tmp_path / name, frames, codec=codec))
    assert (len(reader), reader.size, reader.fps) == (40, size, NTSC)
    read = torch.stack(list(reader.frames())).numpy()
    luma = (read @ [0.2126, 0.7152, 0.0722])[:, None] - (frames @ [0.2126, 0.7152, 0.0722])[None]  # (40, 40, H, W)
    assert (np.abs(luma).mean(axis=(2, 3)).argmin(axis=1) == np.arange(40)).all()
    if name != "a.mkv":  # Matroska rounds times to milliseconds
        assert reader.times == tuple(i / NTSC for i in range(40))


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25), Fraction(120), Fraction(1165000, 39039)])
def test_frame_rates_are_kept(tmp_path: Path, fps: Fraction) -> None:
    assert open_video(save(tmp_path / "a.mp4", make_scene(8), fps)).fps == fps


def test_quality_changes_the_size(tmp_path: Path) -> None:
    frames = make_scene(10)
    fine, coarse = (save(tmp_path / f"{q}.mp4", frames, quality=q).stat().st_size for q in (5, 40))
    assert coarse < fine / 2


PATCHES = np.array([[0, 0, 0], [255, 255, 255], [128, 128, 128], [255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 60, 130]])


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_colors_are_limited_bt709(tmp_path: Path, codec: str) -> None:
    frame = np.kron(PATCHES[None].astype(np.uint8), np.ones((32, 32, 1), np.uint8))
    path = save(tmp_path / "a.mp4", np.stack([frame] * 3), codec=codec, quality=4)
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
    tags = picture.colorspace, picture.color_range, picture.color_primaries, picture.color_trc
    assert [int(tag) for tag in tags] == [1, 1, 1, 1]
    y, cb, cr = (np.frombuffer(p, np.uint8).reshape(p.height, -1)[:, : p.width] for p in picture.planes)
    r, g, b = PATCHES.T / 255
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b  # ITU-R BT.709, item 3.2
    for plane, step, expected in (
        (y, 32, 16 + 219 * luma),
        (cb, 16, 128 + 224 * (b - luma) / 1.8556),
        (cr, 16, 128 + 224 * (r - luma) / 1.5748),
    ):
        assert np.abs(plane[step // 2, step // 2 :: step] - expected).max() <= 1
    read = open_video(path).read([1])[0].numpy()
    assert np.abs(read[16, 16::32].astype(int) - PATCHES).max() <= 3


def test_variable_times_are_kept(tmp_path: Path) -> None:
    tick = Fraction(1, 600)
    times = [tick * k for k in (0, 23, 60, 118, 1198, 1221, 1222)]
    for name in ("a.mp4", "a.mov"):
        with VideoWriter(tmp_path / name, Fraction(7), tick=tick) as writer:
            for frame, time in zip(make_scene(7), times, strict=True):
                writer.write(frame, time)
        assert open_video(tmp_path / name).times == tuple(times)
    with VideoWriter(tmp_path / "b.mp4", Fraction(7), tick=tick) as writer:
        writer.write(make_scene(1)[0], times[3])
        with pytest.raises(ValueError, match="not later than"):
            writer.write(make_scene(1)[0], times[3])


def test_aspect_and_title_are_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", make_scene(3), aspect=Fraction(64, 45), metadata={"title": "Aspen"})
    assert open_video(path).aspect == Fraction(64, 45)
    with av.open(str(path)) as container:
        assert container.metadata["title"] == "Aspen"


def read_audio(path: Path) -> tuple[list[bytes], Fraction]:
    """Read the payloads of the audio packets, and the start of the first relative to the first frame."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        payloads = [bytes(packet) for packet in packets]
        return payloads, packets[0].pts * packets[0].time_base - open_video(path).times[0]


def write_with_audio(path: Path, codec: str, layout: str = "mono", form: str = "fltp") -> Path:
    """Write two seconds of video and a tone that starts half a second later."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        audio = container.add_stream(codec, rate=48000, layout=layout)
        for frame in make_scene(50):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(video.encode(None))
        for start in range(0, 72000, 1024):
            wave = np.sin(np.arange(start, start + 1024) * 0.05)[None].astype(np.float32)
            tone = av.AudioFrame.from_ndarray(wave, "fltp", layout)
            tone.sample_rate, tone.pts, tone.time_base = 48000, start + 24000, Fraction(1, 48000)
            container.mux(audio.encode(tone))
        container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize("target", ["a.mp4", "a.mkv", "a.mov"])
@pytest.mark.parametrize("source", ["clip.mp4", "clip.ts"])  # a transport stream starts at 1.4 s
def test_audio_is_copied_in_sync(tmp_path: Path, source: str, target: str) -> None:
    origin = write_with_audio(tmp_path / source, "aac")
    path = save(tmp_path / target, make_scene(50), Fraction(25), audio_from=origin)
    (before, start), (after, new_start) = read_audio(origin), read_audio(path)
    assert abs(new_start - start) <= Fraction(2, 1000)
    assert len(after) == len(before) > 60
    strip = 7 if source == "clip.ts" else 0  # transport streams prefix each packet with a header
    assert after == [payload[strip:] for payload in before]
    assert len(open_video(path)) == 50


def test_audio_of_a_real_file_keeps_its_packets(shared: Path, tmp_path: Path) -> None:
    origin = shared / "data/train/gopro_karma_drone.mp4"
    if not origin.exists():
        pytest.skip("needs gopro_karma_drone.mp4")
    path = save(tmp_path / "a.mp4", make_scene(20), audio_from=origin)
    assert read_audio(path) == read_audio(origin)


def test_unsupported_audio_is_dropped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    origin = write_with_audio(tmp_path / "clip.mkv", "pcm_u8")
    with caplog.at_level(logging.WARNING):
        path = save(tmp_path / "a.mp4", make_scene(5), audio_from=origin)
    assert "cannot store the audio" in caplog.text
    assert "pcm_u8" in caplog.text
    with av.open(str(path)) as container:
        assert not container.streams.audio
    assert len(read_audio(save(tmp_path / "a.mkv", make_scene(5), audio_from=origin))[0]) > 10


def interrupt_writing(path: Path) -> None:
    """Interrupt a writer after some frames."""
    existed = path.exists()
    writer = VideoWriter(path, NTSC)
    with pytest.raises(KeyboardInterrupt), writer:
        for frame in make_scene(80):
            writer.write(frame)
        assert path.exists() == existed
        raise KeyboardInterrupt


def test_file_appears_only_when_complete(tmp_path: Path) -> None:
    path = save(tmp_path / "new" / "folder" / "a.mp4", make_scene(3))
    old = path.read_bytes()
    interrupt_writing(path)
    assert path.read_bytes() == old
    assert [entry.name for entry in path.parent.iterdir()] == ["a.mp4"]
    save(path, make_scene(4))
    assert len(open_video(path)) == 4
    interrupt_writing(tmp_path / "frames")
    with pytest.raises(VideoError, match="no frames"), VideoWriter(tmp_path / "none.mp4", NTSC):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("name", ["frames", "frames.v2/"])
def test_folders_of_frames(tmp_path: Path, name: str) -> None:
    frames = make_scene(11, 21, 33)
    target = f"{tmp_path}/sub/{name}"
    with VideoWriter(target, NTSC) as writer:
        for frame in torch.from_numpy(frames.copy()):
            writer.write(frame)
    path = Path(target)
    assert sorted(entry.name for entry in path.iterdir()) == [f"{i:08d}.png" for i in range(11)]
    assert np.array_equal(np.asarray(Image.open(path / "00000010.png")), frames[10])
    assert np.array_equal(open_video(path).read(range(11)).numpy(), frames)
    with VideoWriter(target, NTSC) as writer:
        writer.write(frames[3])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert np.array_equal(open_video(path).read([0])[0].numpy(), frames[3])
    (path / "notes.txt").write_text("mine")
    with pytest.raises(VideoError, match="is not a folder of frames"):
        VideoWriter(target, NTSC).__enter__()
    assert sorted(entry.name for entry in path.iterdir()) == ["00000000.png", "notes.txt"]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("a.avi", {}, r"a.avi is not a supported video file; use one of .mp4"),
        ("a.mov", {"codec": "ffv1"}, r"a.mov cannot store ffv1; write a.mkv instead"),
        ("a.mp4", {"codec": "theora"}, "unknown codec theora; choose h264"),
        ("a.mp4", {"quality": 60}, "h264 does not support quality=60: the range is 0"),
        ("a.mp4", {"codec": "lossless", "quality": 10}, "it is always lossless"),
        ("a.mp4", {"audio_from": Path("gone.mp4")}, r"gone.mp4 cannot be opened to copy its audio"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path: Path, name: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(VideoError, match=sentence) as caught:
        save(tmp_path / name, make_scene(2), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_write_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"a.mp4 cannot be written: Invalid argument"):
        save(tmp_path / "a.mp4", make_scene(1, 8, 8), codec="hevc")  # x265 begins at 16 pixels
    (tmp_path / "b").touch()
    for name in ("b/a.mp4", "b/frames"):
        with pytest.raises(VideoError, match=r"cannot be written: (File exists|Not a directory)"):
            save(tmp_path / name, make_scene(1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_names_that_look_like_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frames = make_scene(4)
    path = save(Path("take:2 %03d.mp4"), frames, codec="lossless")
    for backend in ("pyav", "decord"):
        assert np.array_equal(open_video(path, backend=backend).read(range(4)).numpy(), frames)
    write_with_audio(tmp_path / "x:y.mp4", "aac")
    assert len(read_audio(save(Path("b:c.mp4"), frames, audio_from=Path("x:y.mp4")).absolute())[0]) > 10


def test_frames_must_have_equal_sizes(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", NTSC) as writer:
        writer.write(make_scene(1)[0])
        with pytest.raises(ValueError, match=r"frame 1 is \(64, 64\)"):
            writer.write(np.zeros((64, 64, 3), np.uint8))
        with pytest.raises(ValueError, match="uint8"):
            writer.write(np.zeros((96, 128, 3), np.float32))
    assert len(open_video(tmp_path / "a.mp4")) == 1


TAGS = [(1, 1, 1, 1), (6, 1, 6, 6), (9, 1, 9, 16), (1, 2, 1, 13), (5, 1, 5, 4)]  # matrix, range, primaries, transfer


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *((f"a.{kind}", codec) for kind in ("mp4", "mkv") for codec in ("h264", "hevc", "av1")),
        *(("a.mov", "prores"), ("a.mkv", "ffv1"), ("a.mp4", "lossless")),
    ],
)
def test_color_tags_are_kept(tmp_path: Path, name: str, codec: str, tags: tuple[int, ...]) -> None:
    depth = 8 if codec in ("h264", "lossless") else 10
    top = 2**depth - 1
    frame = np.kron(np.rint(PATCHES[None] / 255 * top), np.ones((64, 32, 1))).astype(
        np.uint8 if depth == 8 else np.uint16
    )
    frames = np.stack([frame] * 2)
    signal = Signal(depth, *tags)
    path = save(tmp_path / name, frames, codec=codec, signal=signal, source_size=(64, 224))
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        stream = context.colorspace, context.color_range, context.color_primaries, context.color_trc
    read = open_video(path, deep=True).signal
    rgb = codec in ("ffv1", "lossless")
    expected = (0, 2, *tags[2:]) if rgb else (tags[0], 1, *tags[2:]) if codec == "prores" else tags
    assert (read.depth, read.matrix, read.range, read.primaries, read.transfer) == (depth, *expected)
    assert tuple(map(int, stream[2:])) == tags[2:]
    back = next(open_video(path, deep=True).frames()).int().numpy()
    # A wrong matrix or range would change colors by tens of 255 steps.
    assert np.abs(back[32, 16::32] - frame[32, 16::32].astype(int)).max() / top <= (0 if rgb else 0.02)


@pytest.mark.parametrize(
    ("size", "source", "matrix"),
    [((96, 128), (96, 128), 2), ((640, 32), (160, 32), 6), ((640, 32), (720, 32), 2), ((160, 32), (640, 32), 1)],
)
def test_untagged_stays_untagged_unless_players_guess_differently(
    tmp_path: Path, size: tuple[int, int], source: tuple[int, int], matrix: int
) -> None:
    frames = np.kron(PATCHES[None].astype(np.uint8), np.ones((*size, 1), np.uint8))[None, : size[0], : size[1]]
    path = save(tmp_path / "a.mp4", frames, codec="h264", quality=1, signal=Signal(), source_size=source)
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
    tags = picture.colorspace, picture.color_range, picture.color_primaries, picture.color_trc
    assert tuple(map(int, tags)) in ((matrix, 0, 2, 2), (matrix, 1, 2, 2))  # H.264 has no matrix without a range


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_ffv1_is_exact_at_every_depth(tmp_path: Path, depth: int) -> None:
    kind = np.uint8 if depth == 8 else np.uint16
    frames = np.random.default_rng(depth).integers(0, 2**depth, (5, 49, 67, 3)).astype(kind)
    signal = Signal(depth, 9, 1, 9, 16)
    path = save(tmp_path / "a.mkv", frames, codec="ffv1", signal=signal, aspect=Fraction(16, 11))
    reader = open_video(path, deep=True)
    assert reader.signal == Signal(depth, 0, 2, 9, 16)
    assert np.array_equal(np.stack([frame.numpy() for frame in reader.frames()]), frames)
    assert abs(reader.aspect - Fraction(16, 11)) < Fraction(1, 100)  # to half a column of the display size
    with VideoWriter(tmp_path / "frames", NTSC, signal=signal) as writer:
        for frame in torch.from_numpy(frames.copy()):
            writer.write(frame)
    images = open_video(tmp_path / "frames", deep=True)
    assert images.signal.depth == (8 if depth == 8 else 16)
    read = np.stack([frame.numpy() for frame in images.frames()]).astype(np.int64)
    assert np.array_equal((read * (2**depth - 1) + 32767) // 65535 if depth > 8 else read, frames)


@pytest.mark.parametrize(
    ("name", "codec", "depth", "pixels"),
    [
        ("a.mp4", "auto", 8, "yuv420p"),
        ("a.mp4", "auto", 10, "yuv420p10le"),
        ("a.mkv", "auto", 12, "yuv420p12le"),
        ("a.webm", "auto", 8, "yuv420p"),
        ("a.webm", "auto", 10, "yuv420p10le"),
        ("a.mp4", "h264", 10, "yuv420p"),
        ("a.mov", "prores", 8, "yuv422p10le"),
        ("a.mkv", "ffv1", 14, "gbrp14le"),
        ("a.m4v", "auto", 8, "yuv420p"),
    ],
)
def test_bit_depth_by_codec(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, codec: str, depth: int, pixels: str
) -> None:
    frames = make_scene(2).astype(np.uint8 if depth == 8 else np.uint16) << (depth - 8)
    with caplog.at_level(logging.WARNING):
        path = save(tmp_path / name, frames, codec=codec, signal=Signal(depth))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == pixels
    assert ("is written with 8 of 10 bits, the maximum of h264" in caplog.text) == (codec == "h264")


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_hdr_metadata_is_kept(tmp_path: Path, codec: str) -> None:
    display = [Fraction(n, 50000) for n in (34000, 16000, 13250, 34500, 7500, 3000, 15635, 16450)]
    signal = Signal(10, 9, 1, 9, 16, (*display, Fraction(1, 100), Fraction(1000)), (1000, 400))
    path = save(tmp_path / "a.mp4", make_scene(2).astype(np.uint16) * 4, codec=codec, signal=signal)
    read = open_video(path, deep=True).signal
    assert read.light == (1000, 400)
    assert all(abs(a - b) < Fraction(1, 1000) for a, b in zip(read.mastering, signal.mastering, strict=True))


@pytest.mark.parametrize(("codec", "presets"), [("h264", ("ultrafast", "slow")), ("av1", ("12", "4"))])
def test_presets_trade_time_for_size(tmp_path: Path, codec: str, presets: tuple[str, str]) -> None:
    fast, slow = (save(tmp_path / f"{p}.mkv", make_scene(12), codec=codec, preset=p).stat().st_size for p in presets)
    assert slow < fast


def test_unsupported_odd_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        VideoError, match=r"av1 does not support odd sizes such as 65x48; choose h264, hevc, ffv1"
    ) as caught:
        save(tmp_path / "a.webm", make_scene(1, 48, 65))
    assert "\n" not in str(caught.value)
    path = save(tmp_path / "a.mov", make_scene(1, 47, 65), codec="prores")
    assert open_video(path).size == (47, 65)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mov"]


@pytest.mark.parametrize("name", ["rotated90_h264.mov", "rotate_and_reflect.mp4"])
def test_rotated_source_is_written_upright(shared: Path, tmp_path: Path, name: str) -> None:
    origin = shared / "data/odd" / name
    if not origin.exists():
        pytest.skip(f"needs {name}")
    reader = open_video(origin)
    frames = [frame.numpy() for frame in reader.frames(0, 3)]
    path = tmp_path / "a.mp4"
    with VideoWriter(path, reader.fps, "lossless", audio_from=origin, signal=reader.signal, aspect=reader.aspect) as w:
        for frame in frames:
            w.write(frame)
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
        assert (picture.rotation, picture.height, picture.width) == (0, *reader.size)
        assert "DISPLAYMATRIX" not in {kind.type.name for kind in picture.side_data}
    assert np.array_equal(open_video(path).read(range(3)).numpy(), np.stack(frames))


@pytest.mark.parametrize(
    ("name", "aspect"), [("a.mp4", Fraction(64, 45)), ("a.mkv", Fraction(64, 45)), ("a.webm", Fraction(8, 9))]
)
@pytest.mark.parametrize("codec", ["h264", "av1", "ffv1"])
def test_aspect_by_codec_and_container(tmp_path: Path, codec: str, name: str, aspect: Fraction) -> None:
    if (codec, name) in (("ffv1", "a.mp4"), ("ffv1", "a.webm"), ("h264", "a.webm")):
        return
    frames = make_scene(3, 144, 180)
    path = save(tmp_path / name, frames, codec=codec, aspect=aspect)
    reader = open_video(path)
    assert reader.aspect == aspect
    assert len(list(reader.frames())) == 3
    assert torch.equal(reader.read([2])[0], list(reader.frames())[2])


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_equal_frames_give_equal_bytes(tmp_path: Path, codec: str) -> None:
    rng = np.random.default_rng(0)  # 41 macroblocks per row: x264's AVX-512 code reads past the last
    whole = np.kron(rng.integers(0, 256, (30, 44, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    noise = rng.integers(0, 24, whole.shape, dtype=np.uint8)
    whole = np.minimum(whole, 231) + noise
    frames = np.stack([whole[2 * i : 2 * i + 416, 3 * i : 3 * i + 656] for i in range(12)])
    contents = set()
    for number in range(4):
        rng.integers(0, 256, 1 << (20 + number), dtype=np.uint8)  # change the state of the heap
        contents.add(save(tmp_path / f"{number}.mp4", frames, codec=codec).read_bytes())
    assert len(contents) == 1
