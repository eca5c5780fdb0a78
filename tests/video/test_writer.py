"""Written videos read back: pixels, colours, times and audio; failures leave no files behind."""

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
    with pytest.raises(VideoError, match=r"^hevc does not support 8x8 pixels: its minimum is 16x16; "):
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


@pytest.mark.parametrize(("codec", "presets"), [("h264", ("ultrafast", "slow")), ("av1", ("12", "4"))])
def test_presets_trade_time_for_size(tmp_path: Path, codec: str, presets: tuple[str, str]) -> None:
    fast, slow = (save(tmp_path / f"{p}.mkv", make_scene(12), codec=codec, preset=p).stat().st_size for p in presets)
    assert slow < fast


@pytest.mark.parametrize(
    ("codec", "size", "larger", "choices"),
    [
        ("hevc", (16, 16), (14, 16), "h264, av1, ffv1, prores .in a.mov., lossless"),
        ("hevc", (16, 16), (16, 14), "h264, av1"),
        ("av1", (4, 4), (2, 4), "h264, ffv1, prores"),
    ],
)
def test_sizes_of_a_codec(tmp_path: Path, codec: str, size: tuple, larger: tuple, choices: str) -> None:
    """Its least size is written, and one below is refused with the codecs that can."""
    assert open_video(save(tmp_path / "a.mp4", make_scene(2, *size), codec=codec)).size == size
    with pytest.raises(VideoError, match=f"{codec} does not support {larger[1]}x{larger[0]} pixels: .*{choices}"):
        save(tmp_path / "a.mp4", make_scene(2, *larger), codec=codec)


@pytest.mark.parametrize("preset", [12, "12"])
def test_presets_may_be_numbers(tmp_path: Path, preset: int | str) -> None:
    assert len(open_video(save(tmp_path / "a.webm", make_scene(2), preset=preset))) == 2


def test_unsupported_odd_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        VideoError,
        match=r"av1 does not support odd sizes such as 65x48; choose h264 \(in a.mkv\), hevc \(in a.mkv\), ffv1",
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
