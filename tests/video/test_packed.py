"""A packed video has exactly the pixels of its folder, with every backend, and only requested frames are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from src.data.packing import pack_clip
from src.errors import VideoError
from src.video import packed
from src.video.discovery import find_clip
from src.video.probe import probe
from src.video.reader import open_video


def make_noise(folder: Path, count: int, size: tuple[int, int]) -> np.ndarray:
    """Write a folder of RGB noise and return its frames, (T, H, W, 3)."""
    frames = np.random.default_rng(size).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i:04}.png")
    return frames


@pytest.mark.parametrize("size", [(24, 32), (13, 21), (33, 47), (16, 17)])
@pytest.mark.parametrize("gop", [1, 3])
def test_packing_is_lossless_with_every_backend(tmp_path: Path, size: tuple[int, int], gop: int) -> None:
    frames = make_noise(tmp_path / "clip", 11, size)
    pack_clip(tmp_path / "clip", tmp_path / "clip.mp4", gop=gop)
    order = [7, 0, 10, 3, 3, 4]
    for backend in ("auto", "pyav", "decord"):
        with open_video(tmp_path / "clip.mp4", backend) as video:  # type: ignore[arg-type]
            assert np.array_equal(video.read(order).numpy(), frames[order]), backend
            assert np.array_equal(torch.stack([*video.frames()]).numpy(), frames), backend
            assert np.array_equal(torch.stack([*video.frames(4, 9)]).numpy(), frames[4:9]), backend


def test_packed_video_has_the_properties_of_its_folder(tmp_path: Path) -> None:
    make_noise(tmp_path / "clip", 9, (12, 20))
    pack_clip(tmp_path / "clip", tmp_path / "clip.mp4")
    folder, video = open_video(tmp_path / "clip"), open_video(tmp_path / "clip.mp4")
    for name in ("size", "fps", "times", "end", "signal", "aspect", "interlaced", "name"):
        assert getattr(folder, name) == getattr(video, name), name
    assert len(video) == 9


def test_sample_table_index_equals_probing(tmp_path: Path) -> None:
    make_noise(tmp_path / "clip", 10, (12, 21))
    pack_clip(tmp_path / "clip", tmp_path / "clip.mp4", gop=4)
    index, probed = packed.read_index(tmp_path / "clip.mp4"), probe(tmp_path / "clip.mp4", lambda: None)
    assert index is not None
    unlike = {"checksums": (), "frame_rates": probed.frame_rates, "signal": probed.signal}
    assert replace(index, **unlike) == probed
    assert len(index.keyframes) == 3
    assert not probed.decord_objection


def read_entries(path: Path) -> list[tuple[int, int, bool]]:
    """Return position, size in bytes and the key frame flag of each frame."""
    with av.open(str(path)) as container:
        return [(entry.pos, entry.size, entry.is_keyframe) for entry in container.streams.video[0].index_entries]


def test_only_requested_groups_are_read(tmp_path: Path) -> None:
    """All other frames are overwritten; the damage is detected only on reading them."""
    frames = make_noise(tmp_path / "clip", 24, (32, 48))
    file = tmp_path / "clip.mp4"
    pack_clip(tmp_path / "clip", file, gop=4)
    places = read_entries(file)
    assert [i for i, (_, _, key) in enumerate(places) if key] == [0, 4, 8, 12, 16, 20]
    with file.open("r+b") as stream:
        for place, size, _ in [*places[:8], *places[16:]]:
            stream.seek(place + 4)
            stream.write(bytes(size - 4))
    with open_video(file) as video:
        assert len(video) == 24
        assert np.array_equal(video.read([9, 10, 13, 15]).numpy(), frames[[9, 10, 13, 15]])
        assert np.array_equal(video.read([8]).numpy(), frames[[8]])
        for overwritten in (2, 17):
            with pytest.raises(VideoError, match=r"clip\.mp4"):
                video.read([overwritten])


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_flipped_bits_are_detected(tmp_path: Path, backend: str) -> None:
    frames = make_noise(tmp_path / "clip", 9, (32, 40))
    pack_clip(tmp_path / "clip", tmp_path / "clip.mp4", gop=1)
    place, size, _ = read_entries(tmp_path / "clip.mp4")[5]
    whole = (tmp_path / "clip.mp4").read_bytes()
    refused = 0
    for offset in range(40, size - 8, size // 12):
        damaged = bytearray(whole)
        damaged[place + offset] ^= 0x10
        (tmp_path / "damaged.mp4").write_bytes(damaged)
        with open_video(tmp_path / "damaged.mp4", backend) as video:  # type: ignore[arg-type]
            assert np.array_equal(video.read([4]).numpy(), frames[[4]])
            try:
                assert np.array_equal(video.read([5]).numpy(), frames[[5]])  # not every bit affects pixels
            except VideoError:
                refused += 1
    assert refused >= 8


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    make_noise(tmp_path / "clip", 9, (32, 48))
    pack_clip(tmp_path / "clip", tmp_path / "clip.mp4")
    whole = (tmp_path / "clip.mp4").read_bytes()
    for share in (0.2, 0.9, 0.99):
        (tmp_path / "cut.mp4").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(VideoError, match=r"cut\.mp4"):
            open_video(tmp_path / "cut.mp4")


def test_excerpt_is_an_ordinary_video(tmp_path: Path) -> None:
    frames = make_noise(tmp_path / "clip", 9, (32, 48))
    pack_clip(tmp_path / "clip", tmp_path / "clip.mp4", gop=3)
    with av.open(str(tmp_path / "clip.mp4")) as source, av.open(str(tmp_path / "part.mp4"), "w") as part:
        part.metadata["comment"] = source.metadata["comment"]
        stream = part.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][3:]:
            packet.stream = stream
            part.mux(packet)
    assert packed.read_index(tmp_path / "part.mp4") is None
    with open_video(tmp_path / "part.mp4") as video:
        assert np.array_equal(video.read([0, 5]).numpy(), frames[[3, 8]])


def test_find_clip_prefers_the_folder(tmp_path: Path) -> None:
    assert find_clip(tmp_path / "a.b") is None
    (tmp_path / "a.b.mp4").touch()
    assert find_clip(tmp_path / "a.b") == tmp_path / "a.b.mp4"
    (tmp_path / "a.b").mkdir()
    assert find_clip(tmp_path / "a.b") == tmp_path / "a.b"
