"""Joined parts equal the video written at once, with the companion streams of the source."""

from __future__ import annotations

import io
import logging
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.subtitles.subtitle import SubtitleSet
from PIL import Image

from src.errors import VideoError
from src.video.colorspace import RGB, Signal
from src.video.mux import join
from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.video.clips import make_scene

NTSC = Fraction(30000, 1001)
TICK = Fraction(1, 90000)
TIMES = [TICK * k for k in (0, 3003, 6006, 50000, 50300, 60000, 90000, 93003, 96006, 99009, 102012, 130000)]
END = TIMES[-1] + Fraction(1, 10)
COMBINATIONS = [
    *((codec, name) for codec in ("h264", "hevc", "lossless") for name in ("a.mp4", "a.mov", "a.mkv")),
    *(("av1", name) for name in ("a.mp4", "a.mkv", "a.webm")),
    *(("prores", name) for name in ("a.mov", "a.mkv")),
    ("ffv1", "a.mkv"),
]
HEADER = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name\n\n[Events]\nFormat: Layer, Start, End, Text\n"
)


def max_depth(codec: str) -> int:
    return 8 if codec in ("h264", "lossless") else 10


def save(path: Path, frames: np.ndarray, times: list[Fraction], **options: object) -> Path:
    with VideoWriter(path, NTSC, tick=TICK, **options) as writer:  # type: ignore[arg-type]
        for frame, time in zip(frames, times, strict=True):
            writer.write(frame, time)
    return path


def write_parts(folder: Path, frames: np.ndarray, times: list[Fraction], **options: object) -> list[Path]:
    bounds = ((0, 5), (5, 6), (6, len(frames)))
    return [save(folder / f"{a}.nut", frames[a:b], times[a:b], **options) for a, b in bounds]


def read_frames(path: Path) -> np.ndarray:
    with open_video(path, deep=True) as reader:
        return np.stack([frame.numpy() for frame in reader.frames()])


@pytest.mark.parametrize(("codec", "name"), COMBINATIONS)
def test_join_keeps_times_and_tags(tmp_path: Path, codec: str, name: str) -> None:
    depth = max_depth(codec)
    frames, signal = make_scene(12, depth=depth), Signal(depth, 9, 1, 9, 16)
    options: dict[str, object] = {"codec": codec, "signal": signal, "aspect": Fraction(4, 3), "source_size": (96, 128)}
    pieces = write_parts(tmp_path, frames, TIMES, **options)
    join(pieces, tmp_path / name, until=END, metadata={"title": "Aspen"})
    assert np.array_equal(read_frames(tmp_path / name), np.concatenate([read_frames(piece) for piece in pieces]))
    reader = open_video(tmp_path / name, deep=True)
    near = 0 if name in ("a.mp4", "a.mov") else Fraction(1, 1000)
    assert all(abs(a - b) <= near for a, b in zip(reader.times, TIMES, strict=True))
    assert abs(reader.end - END) <= near
    assert reader.signal == (Signal(depth, RGB, 2, 9, 16) if codec in ("lossless", "ffv1") else signal)
    assert abs(reader.aspect / Fraction(4, 3) - 1) < Fraction(1, 100)  # Matroska stores whole pixels
    with av.open(str(tmp_path / name)) as container:
        assert container.metadata["title"] == "Aspen"
        assert "comment" not in {key.lower() for key in container.metadata}
        packets = [packet for packet in container.demux(video=0) if packet.size]
        if not near:
            assert abs(container.duration / Fraction(1000000) - END) <= Fraction(1, 1000000)
            assert all(a.dts < b.dts for a, b in pairwise(packets))
            assert all(packet.dts <= packet.pts for packet in packets)
    assert [p.name for p in sorted(tmp_path.iterdir())] == sorted([name, "0.nut", "5.nut", "6.nut"])


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "ffv1", "prores", "lossless"])
def test_parts_are_reproducible(tmp_path: Path, codec: str) -> None:
    frames, signal = make_scene(12, depth=max_depth(codec)), Signal(max_depth(codec))
    first, again = (save(tmp_path / f"{i}.nut", frames, TIMES, codec=codec, signal=signal) for i in (0, 1))
    assert first.read_bytes() == again.read_bytes()
    later = save(tmp_path / "later.nut", frames[:1], [Fraction(7)], codec=codec, signal=signal)
    with av.open(str(first)) as one, av.open(str(later)) as other:
        assert one.streams.video[0].codec_context.extradata == other.streams.video[0].codec_context.extradata
    assert (save(tmp_path / "whole.mkv", frames, TIMES, codec=codec, signal=signal)).stat().st_size
    join([first], tmp_path / "joined.mkv")
    assert np.array_equal(read_frames(tmp_path / "whole.mkv"), read_frames(tmp_path / "joined.mkv"))
    assert open_video(tmp_path / "whole.mkv").times == open_video(tmp_path / "joined.mkv").times


def test_negative_times_are_shifted(tmp_path: Path) -> None:
    times = [time - Fraction(1, 2) for time in TIMES]
    join(write_parts(tmp_path, make_scene(12), times, codec="h264"), tmp_path / "a.mp4", until=END - Fraction(1, 2))
    reader = open_video(tmp_path / "a.mp4")
    assert reader.times == tuple(TIMES)


def write_film(path: Path, text: str = "subrip", late: int = 0) -> Path:
    """Write two seconds with two languages, subtitles, chapters and a font; video starts ``late`` frames late."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        sounds = [container.add_stream("aac", rate=48000, layout="mono") for _ in range(2)]
        for sound, language in zip(sounds, ("fra", "eng"), strict=True):
            sound.metadata["language"] = language
        sounds[0].disposition = av.stream.Disposition.default
        sounds[1].disposition = av.stream.Disposition.comment
        words = container.add_stream(text)
        words.codec_context.time_base, words.codec_context.subtitle_header = Fraction(1, 1000), HEADER
        words.metadata["language"] = "spa"
        container.metadata.update({"title": "Aspen", "artist": "Us"})
        chapters = ((1, 0, 800, "One"), (2, 800, 2000, "Two"))
        container.set_chapters(
            [
                {"id": i, "start": a, "end": b, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
                for i, a, b, title in chapters
            ]
        )
        if path.suffix == ".mkv":
            container.add_attachment("font.ttf", "application/x-truetype-font", b"glyphs")
        for start in (200, 1000):
            line = f"0,0,Default,,0,0,0,,at {start}".encode()
            packet = words.codec_context.encode_subtitle(SubtitleSet.create(line, 0, 500))
            packet.pts = packet.dts = start
            packet.duration, packet.time_base, packet.stream = 500, Fraction(1, 1000), words
            container.mux(packet)
        for index, frame in enumerate(make_scene(50)):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts, picture.time_base = index + late, Fraction(1, 25)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for number, sound in enumerate(sounds):
            for start in range(0, 96000, 1024):
                wave = np.sin(np.arange(start, start + 1024) * (0.05 + number / 50))[None].astype(np.float32)
                tone = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
                tone.sample_rate, tone.pts, tone.time_base = 48000, start, Fraction(1, 48000)
                container.mux(sound.encode(tone))
            container.mux(sound.encode(None))
    return path


def read_streams(path: Path) -> dict[int, list[tuple[Fraction, bytes]]]:
    """Read time, relative to the first frame, and payload of the audio and subtitle packets, by stream."""
    found: dict[int, list[tuple[Fraction, bytes]]] = {}
    begin = open_video(path).times[0]
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size and packet.stream.type in ("audio", "subtitle"):
                if packet.stream.type == "subtitle" and bytes(packet) == b"\0\0":  # MP4 stores gaps as packets
                    continue
                at = packet.pts * packet.time_base - begin
                found.setdefault(packet.stream_index, []).append((at, bytes(packet)))
    return found


def count_samples(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        count = len(container.streams.audio)
    counts = []
    for number in range(count):
        with av.open(str(path)) as container:
            counts.append(sum(frame.samples for frame in container.decode(audio=number)))
    return counts


@pytest.mark.parametrize("source", ["film.mkv", "film.mp4"])
@pytest.mark.parametrize("target", ["a.mkv", "a.mp4", "a.mov"])
def test_companion_streams_are_copied(tmp_path: Path, source: str, target: str) -> None:
    origin = write_film(tmp_path / source, "subrip" if source == "film.mkv" else "mov_text")
    pieces = write_parts(tmp_path, make_scene(12), TIMES, codec="h264")
    path = tmp_path / target
    join(pieces, path, source=origin, start=TIMES[0], origin=open_video(origin).times[0], metadata={"artist": "Them"})
    before, after = read_streams(origin), read_streams(path)
    assert len(after) == 3
    for (index, old), new in zip(before.items(), after.values(), strict=True):
        assert len(old) == len(new)
        assert all(abs(a[0] - b[0]) <= Fraction(2, 1000) for a, b in zip(old, new, strict=True))
        if index < 3:
            assert [data for _, data in old] == [data for _, data in new]
    if source[4:] == target[1:]:
        assert count_samples(origin) == count_samples(path)
    with av.open(str(path)) as container:
        sounds, (words,) = container.streams.audio, container.streams.subtitles
        assert [sound.language for sound in sounds] == ["fra", "eng"]
        assert words.language == "spa"
        assert sounds[0].disposition & av.stream.Disposition.default
        if target != "a.mov":  # QuickTime has no comment disposition
            assert sounds[1].disposition & av.stream.Disposition.comment
        tags = {key.lower(): value for key, value in container.metadata.items()}
        assert (tags["title"], tags["artist"]) == ("Aspen", "Them")
        chapters = [
            (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in container.chapters()
        ]
        assert [(a, b, w["title"]) for a, b, w in chapters] == [(0, Fraction(4, 5), "One"), (Fraction(4, 5), 2, "Two")]
        fonts = [(stream.name, stream.data) for stream in container.streams.attachments]
        assert fonts == ([("font.ttf", b"glyphs")] if (source, target) == ("film.mkv", "a.mkv") else [])


@pytest.mark.parametrize("target", ["a.mkv", "a.mp4", "a.mov"])
def test_audio_may_start_before_video(tmp_path: Path, target: str) -> None:
    origin, path = write_film(tmp_path / "film.mkv", late=10), tmp_path / target
    begin = open_video(origin).times[0]
    assert begin > Fraction(1, 4)
    join(write_parts(tmp_path, make_scene(12), TIMES, codec="h264"), path, source=origin, start=TIMES[0], origin=begin)
    assert count_samples(origin) == count_samples(path)
    for before, after in zip(read_streams(origin).values(), read_streams(path).values(), strict=True):
        assert all(abs(old - new) <= Fraction(1, 1000) for (old, _), (new, _) in zip(before, after, strict=True))


def test_cover_art_is_copied(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 10, 10)).save(picture, "JPEG")
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        video, cover = container.add_stream("libx264", rate=25), container.add_stream("mjpeg", rate=1)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.start_encoding()
        packet = av.Packet(picture.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
        container.mux_one(packet)
        for frame in make_scene(12):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(video.encode(None))
    pieces = write_parts(tmp_path, make_scene(12), TIMES, codec="h264")
    for name in ("a.mp4", "a.mkv"):
        join(pieces, tmp_path / name, source=tmp_path / "in.mp4")
        with av.open(str(tmp_path / name)) as container:
            [cover] = [s for s in container.streams.video if s.disposition & av.stream.Disposition.attached_pic]
            held = [bytes(packet) for packet in container.demux(cover) if packet.size]
        assert held == [picture.getvalue()]
        assert len(open_video(tmp_path / name)) == 12


def test_companion_streams_are_clipped(tmp_path: Path) -> None:
    origin = write_film(tmp_path / "film.mkv")
    pieces = write_parts(tmp_path, make_scene(12), [time / 2 for time in TIMES], codec="h264")
    path, end = tmp_path / "a.mkv", Fraction(8, 10)
    join(pieces, path, source=origin, start=Fraction(0), origin=Fraction(1, 2), until=end, since=Fraction(0))
    reader = open_video(path)
    assert abs(reader.end - reader.times[0] - end) <= Fraction(1, 1000)
    for packets in read_streams(path).values():
        assert all(-Fraction(25, 1000) < at < end for at, _ in packets)
    with av.open(str(path)) as container:
        spans = [
            (chapter["start"] * chapter["time_base"], chapter["end"] * chapter["time_base"])
            for chapter in container.chapters()
        ]
        assert spans == [(0, Fraction(3, 10)), (Fraction(3, 10), end)]


def test_dropped_streams_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    origin = write_film(tmp_path / "film.mkv")
    with caplog.at_level(logging.WARNING):
        join(write_parts(tmp_path, make_scene(12), TIMES, codec="av1"), tmp_path / "a.webm", source=origin)
    assert "a.webm cannot store the audio" in caplog.text
    assert "(aac, stream 1): not copied; a.mkv can" in caplog.text
    with av.open(str(tmp_path / "a.webm")) as container:
        assert not container.streams.audio
        assert [stream.codec_context.name for stream in container.streams.subtitles] == ["webvtt"]


@pytest.mark.parametrize("target", ["a.mp4", "a.mkv", "a.mov"])
def test_variable_frame_rate_survives_parts(shared: Path, tmp_path: Path, target: str) -> None:
    origin = shared / "data/odd/flir_vfr_h264.mp4"
    if not origin.exists():
        pytest.skip("needs flir_vfr_h264.mp4")
    reader = open_video(origin)
    frames = (
        np.zeros((len(reader), 64, 96, 3), np.uint8) + np.arange(len(reader), dtype=np.uint8)[:, None, None, None] * 3
    )
    with av.open(str(origin)) as container:
        tick = container.streams.video[0].time_base
    pieces = []
    for a, b in ((0, 1), (1, 40), (40, len(reader))):
        pieces.append(tmp_path / f"{a}.nut")
        with VideoWriter(pieces[-1], reader.fps, "h264", tick=tick, preset="ultrafast") as writer:
            for frame, time in zip(frames[a:b], reader.times[a:b], strict=True):
                writer.write(frame, time)
    path = tmp_path / target
    join(pieces, path, source=origin, start=reader.times[0], origin=reader.times[0], until=reader.end)
    result, near = open_video(path), Fraction(1, 1000) if target == "a.mkv" else 0
    assert all(abs(a - b) <= near for a, b in zip(result.times, reader.times, strict=True))
    assert abs(result.end - reader.end) <= near
    before, after = read_streams(origin), read_streams(path)
    assert [[data for _, data in packets] for packets in before.values()] == [
        [data for _, data in packets] for packets in after.values()
    ]


def test_incompatible_parts_are_refused(tmp_path: Path) -> None:
    one = save(tmp_path / "1.nut", make_scene(3), TIMES[:3], codec="h264")
    other = save(tmp_path / "2.nut", make_scene(3), TIMES[3:6], codec="h264", quality=30)
    small = save(tmp_path / "3.nut", make_scene(3, 64, 64), TIMES[3:6], codec="h264")
    (tmp_path / "4.nut").write_bytes(one.read_bytes()[:100])
    for second, message in (
        (other, "2.nut and .*1.nut were encoded differently"),
        (small, "3.nut and .*1.nut were encoded differently"),
        (one, "1.nut does not continue at the end of the part before it"),
        (tmp_path / "4.nut", "4.nut cannot be read as a video part"),
        (tmp_path / "5.nut", "5.nut cannot be read as a video part"),
    ):
        with pytest.raises(VideoError, match=message) as caught:
            join([one, second], tmp_path / "a.mp4")
        assert "\n" not in str(caught.value)
    with pytest.raises(VideoError, match=r"a.webm cannot store h264; write a.mkv instead"):
        join([one], tmp_path / "a.webm")
    with pytest.raises(VideoError, match="no parts"):
        join([], tmp_path / "a.mp4")
    assert {path.suffix for path in tmp_path.iterdir()} == {".nut"}


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_subtitles_of_an_unknown_format_are_said_to_be_lost(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "bgr0"
        container.add_stream("webvtt").codec_context.subtitle_header = b""
        container.mux(video.encode(av.VideoFrame(64, 48, "bgr0")))
        container.mux(video.encode(None))
    data = source.read_bytes()
    assert data.count(b"D_WEBVTT/SUBTITLES") == 1
    source.write_bytes(data.replace(b"D_WEBVTT/SUBTITLES", b"S_TEXT/WEBVTT".ljust(18, b"\0")))  # as mkvmerge writes it
    save(tmp_path / f"o{suffix}", make_scene(1), TIMES[:1], audio_from=source)
    assert "does not know their format" in caplog.text
    assert "can store" not in caplog.text.replace("cannot store", "")


@pytest.mark.parametrize(("before", "after"), [("in.mov", "o.mov"), ("in.mp4", "o.mkv"), ("in.mov", "o.mp4")])
def test_a_kept_time_code_is_not_said_to_be_lost(
    before: str, after: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene(2)
    source = save(tmp_path / before, scene, TIMES[:2], metadata={"timecode": "01:00:00:00"})
    with av.open(str(source)) as container:
        assert len(container.streams.data) == 1
    save(tmp_path / after, scene, TIMES[:2], audio_from=source)
    with av.open(str(tmp_path / after)) as container:
        tags = {**container.metadata, **container.streams.video[0].metadata}
    assert {key.lower(): value for key, value in tags.items()}["timecode"] == "01:00:00:00"
    assert "not copied" not in caplog.text
