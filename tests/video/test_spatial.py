"""360-degree and 3D video keeps its layout in MP4, MOV, Matroska and WebM, or a sentence says that it does not."""

from __future__ import annotations

import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from src.engine.file_job import FileRestoration
from src.engine.options import RestoreOptions
from src.engine.pipe_job import restore_pipe
from src.papers.baselines import Bicubic
from src.video.reader import open_video
from src.video.spatial import CROPPED, CUBE_MAP, EQUIRECTANGULAR, SpatialLayout
from src.video.writer import VideoWriter
from tests.video.clips import encode, make_scene

QUARTER = 1 << 30
LAYOUTS = {
    "360 in 3D": SpatialLayout("top_bottom", EQUIRECTANGULAR, (10 << 16, -5 << 16, 3 << 16)),
    "3D": SpatialLayout("left_right"),
    "360": SpatialLayout("", EQUIRECTANGULAR),
    "180": SpatialLayout("left_right", CROPPED, bounds=(QUARTER, 0, QUARTER, 0)),
    "cube": SpatialLayout("", CUBE_MAP, (0, 90 << 16, 0), padding=2),
}
CPU = torch.device("cpu")


def save(path: Path, layout: SpatialLayout | None, **options: object) -> Path:
    with VideoWriter(path, Fraction(25), layout=layout, quality=30, **options) as writer:  # type: ignore[arg-type]
        for frame in make_scene(4):
            writer.write(frame)
    return path


def read_side_data(path: Path) -> dict[str, tuple[int, ...]]:
    """The layout as FFmpeg reads it: integers of AVSphericalMapping and AVStereo3D."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        found = {data.type.name: bytes(data) for data in frame.side_data}
    spherical, stereo = found.get("SPHERICAL"), found.get("STEREO3D")
    values = {"SPHERICAL": struct.unpack("=4i5I", spherical)} if spherical else {}
    return values | ({"STEREO3D": struct.unpack("=2i", stereo[:8])} if stereo else {})


def expect(layout: SpatialLayout, scale: int = 1) -> dict[str, tuple[int, ...]]:
    values: dict[str, tuple[int, ...]] = {}
    if layout.projection is not None:
        values["SPHERICAL"] = (layout.projection, *layout.pose, *layout.bounds, scale * layout.padding)
    if layout.stereo:
        values["STEREO3D"] = {"left_right": (1, 0), "top_bottom": (2, 0), "right_left": (1, 1)}[layout.stereo]
    return values


def restore(source: Path, output: Path, scale: int = 1, **options: object) -> FileRestoration:
    whole = FileRestoration(Bicubic(scale=scale), source, output, RestoreOptions(**options), CPU)  # type: ignore[arg-type]
    whole.run(whole.journal.list_missing(whole.parts))
    whole.finish()
    return whole


@pytest.mark.parametrize("output", ["b.mp4", "b.mov", "b.mkv", "b.webm"])
@pytest.mark.parametrize("source", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_kept(tmp_path: Path, name: str, source: str, output: str) -> None:
    layout = LAYOUTS[name]
    path = save(tmp_path / source, layout)
    assert read_side_data(path) == expect(layout)
    preset = {"preset": "12" if output == "b.webm" else "ultrafast"}
    whole = restore(path, tmp_path / output, scale=2, segment=2, **preset)
    assert read_side_data(tmp_path / output) == expect(layout, scale=2)
    assert not any("3D" in sentence or "360" in sentence for sentence in whole.losses)
    assert len(open_video(tmp_path / output)) == 4
    with av.open(str(tmp_path / output)) as container:  # every frame is where the index says
        assert sum(1 for _ in container.decode(video=0)) == 4


def test_layouts_written_by_ffmpeg_are_read(tmp_path: Path) -> None:
    """x264's frame packing and Matroska's tag, neither written by this suite."""
    packed = encode(tmp_path / "packed.mp4", "libx264", {"x264-params": "frame-packing=3"}, count=3)
    restore(packed, tmp_path / "packed.mkv")
    assert read_side_data(tmp_path / "packed.mkv") == {"STEREO3D": (1, 0)}
    with av.open(str(packed)) as source, av.open(str(tmp_path / "tagged.mkv"), "w") as target:
        stream = target.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.metadata["stereo_mode"] = "top_bottom"
        for number, frame in enumerate(source.decode(video=0)):
            flat = av.VideoFrame.from_ndarray(frame.to_ndarray(), "yuv420p")
            flat.pts = number
            target.mux(stream.encode(flat))
        target.mux(stream.encode(None))
    restore(tmp_path / "tagged.mkv", tmp_path / "tagged.mp4")
    assert read_side_data(tmp_path / "tagged.mp4") == {"STEREO3D": (2, 0)}


@pytest.mark.parametrize(
    ("name", "output", "sentence"),
    [
        ("360 in 3D", "frames", "has a 3D layout (top-bottom) and a 360-degree projection (equirectangular): left out"),
        ("cube", "frames", "has a 360-degree projection (cube map): left out"),
        ("swapped", "b.mp4", "has a 3D layout (right-left): left out"),
        ("swapped", "b.mov", "has a 3D layout (right-left): left out"),
    ],
)
def test_lost_layouts_are_said(tmp_path: Path, name: str, output: str, sentence: str) -> None:
    layout = SpatialLayout("right_left") if name == "swapped" else LAYOUTS[name]
    path = save(tmp_path / "a.mkv", layout)
    assert read_side_data(path) == expect(layout)
    assert any(sentence in said for said in restore(path, tmp_path / output).losses)


def test_layouts_of_rotated_frames_are_said_to_be_lost(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "libx264", {"x264-params": "frame-packing=3"}, 3, rotation=(90, False, False))
    whole = restore(path, tmp_path / "b.mkv")
    assert read_side_data(tmp_path / "b.mkv") == {}
    assert any("has 3D layout (left-right): left out" in said for said in whole.losses)


def test_a_comparison_is_flat(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", LAYOUTS["360 in 3D"])
    restore(path, tmp_path / "b.mp4", compare="side")
    assert read_side_data(tmp_path / "b.mp4") == {}


@pytest.mark.parametrize("output", ["b.mp4", "b.mkv"])
def test_layouts_come_through_a_pipe(tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.mkv", LAYOUTS["360 in 3D"])
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        restore_pipe(Bicubic(scale=1), "-", str(tmp_path / output), RestoreOptions(), CPU, lambda _: None)
    assert read_side_data(tmp_path / output) == expect(LAYOUTS["360 in 3D"])


@pytest.mark.parametrize("codec", ["h264", "ffv1"])
def test_aspect_and_layout_go_together(tmp_path: Path, codec: str) -> None:
    quality = {"quality": 30} if codec == "h264" else {}
    with VideoWriter(
        tmp_path / "a.mkv", Fraction(25), codec=codec, aspect=Fraction(4, 3), layout=LAYOUTS["360"], **quality
    ) as writer:
        for frame in make_scene(3):
            writer.write(frame)
    assert open_video(tmp_path / "a.mkv").aspect == Fraction(4, 3)
    assert read_side_data(tmp_path / "a.mkv") == expect(LAYOUTS["360"])


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_sound_and_tags_stay_with_the_boxes(tmp_path: Path, name: str) -> None:
    silent, path = save(tmp_path / f"silent{name}", LAYOUTS["360 in 3D"]), tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        tone = av.AudioFrame.from_ndarray(torch.zeros(1, 16000).numpy(), "fltp", "mono")
        tone.rate, tone.pts = 16000, 0
        container.mux([*sound.encode(tone), *sound.encode(None)])
    output = save(tmp_path / name, LAYOUTS["360 in 3D"], audio_from=path, metadata={"title": "sphere"})
    with av.open(str(output)) as container, av.open(str(silent)) as other:
        assert container.metadata["title"] == "sphere"
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 2500
        assert len([*other.decode(video=0)]) == 4
    assert read_side_data(output) == expect(LAYOUTS["360 in 3D"])
