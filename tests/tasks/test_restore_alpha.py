"""Restored videos keep the alpha channel and the chroma of their sources, or a sentence says that they do not."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from src.config.composition import compose, to_plain
from src.config.options import run_task
from src.engine.options import RestoreOptions
from src.engine.pipe_job import restore_pipe
from src.errors import VideoError
from src.ops.resize import imresize
from src.papers.baselines import Bicubic, Blend
from src.video.colorspace import Signal
from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.tasks.test_restore import CPU, restoration
from tests.tasks.test_restore_files import restore

# By name: codec, pixel format and options. Each stores alpha without loss.
SOURCES = {
    "in.mov": ("qtrle", "argb", {}),
    "in.avi": ("utvideo", "gbrap", {}),
    "in.mkv": ("ffv1", "yuva420p", {}),
    "deep.mkv": ("ffv1", "yuva444p10le", {}),
    "prores.mov": ("prores_ks", "yuva444p10le", {"profile": "4444"}),
    "png.mov": ("png", "rgba", {}),
    "in.apng": ("apng", "rgba", {}),
    "vp9.webm": ("libvpx-vp9", "yuva420p", {"lossless": "1", "cpu-used": "8"}),
}
PICTURES = ("frames", "deep_frames", "tiff_frames", "webp_frames", "in.gif", "in.webp")


def ramps(count=5, height=48, width=64):
    """Frames (T, H, W, 4) of ramps in colour, and in alpha from 0 to 255 other ones that move."""
    y, x = np.mgrid[:height, :width]
    frames = [np.stack((3 * x, 90 + y, 200 - 2 * y, (4 * x + 7 * y + 20 * t) % 256), -1) for t in range(count)]
    return np.stack(frames).astype(np.uint8)


def binary(frames):
    """Make alpha 0 or 1, as in GIF."""
    return np.concatenate([frames[..., :3], np.where(frames[..., 3:] < 128, 0, 255).astype(np.uint8)], axis=-1)


def save(path, frames, codec, pixel_format, options, rotation=0):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        if rotation:
            stream.set_display_rotation(rotation)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format=pixel_format)
            *_, component = frame.format.components
            if component.is_alpha and component.plane:  # swscale may change it by a step
                peak, plane = 2**component.bits - 1, frame.planes[3]
                samples = np.frombuffer(plane, np.uint8 if component.bits == 8 else np.uint16)
                samples.reshape(frame.height, -1)[:, : frame.width] = np.round(pixels[..., 3] / 255 * peak)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def save_source(folder, name, frames):
    """Write one of SOURCES or PICTURES."""
    path = folder / name
    if name in SOURCES:
        return save(path, frames, *SOURCES[name])
    if name == "in.gif":
        images = [Image.fromarray(frame) for frame in binary(frames)]
        images[0].save(path, save_all=True, append_images=images[1:], duration=40, disposal=2)
        return path
    webp = {"lossless": True, "exact": True}
    if name == "in.webp":
        images = [Image.fromarray(frame) for frame in frames]
        images[0].save(path, save_all=True, append_images=images[1:], duration=40, **webp)
        return path
    path.mkdir()
    if name == "deep_frames":
        with VideoWriter(path, Fraction(25), signal=Signal(16, alpha=True)) as writer:
            for frame in frames:
                writer.write(frame.astype(np.uint16) * 257)
        return path
    for number, frame in enumerate(frames):
        suffix = {"webp_frames": "webp", "tiff_frames": "tif"}.get(name, "png")
        Image.fromarray(frame).save(path / f"{number:03d}.{suffix}", **(webp if suffix == "webp" else {}))
    return path


def read_alpha(path):
    """The alpha of a file or folder as PyAV decodes it, in [0, 1]; None without one."""
    planes = []
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        with av.open(str(file)) as container:
            for frame in container.decode(video=0):
                *_, component = frame.format.components
                if not component.is_alpha:
                    return None
                if component.plane == 0:
                    name, peak = ("rgba", 255) if component.bits == 8 else ("rgba64le", 65535)
                    planes.append(frame.to_ndarray(format=name)[..., 3] / peak)
                    continue
                samples = np.frombuffer(frame.planes[3], np.uint8 if component.bits == 8 else np.uint16)
                plane = samples.reshape(frame.height, -1)[:, : frame.width]
                planes.append(plane / (2**component.bits - 1))
    return np.stack(planes)


def finish(whole):
    whole.run(whole.journal.list_missing(whole.parts))
    whole.finish()
    return whole


@pytest.mark.parametrize(("output", "codec"), [("out.mov", "prores"), ("out.mkv", "ffv1"), ("out", "auto")])
@pytest.mark.parametrize("source", [*SOURCES, *PICTURES])
def test_alpha_is_kept(source, output, codec, tmp_path):
    frames = binary(ramps()) if source == "in.gif" else ramps()
    path = save_source(tmp_path, source, frames)
    whole = finish(restoration(path, tmp_path / output, codec=codec, segment=2))
    assert any("alpha channel: kept" in sentence for sentence in whole.losses)
    alpha = read_alpha(tmp_path / output)
    is_deep = codec == "prores" or source in ("deep.mkv", "prores.mov")  # 8 bits are rounded to 10
    assert np.abs(alpha - frames[..., 3] / 255).max() < (1 / 1023 if is_deep else 1e-6)
    with open_video(path) as before, open_video(tmp_path / output) as after:  # colours are restored as without alpha
        assert not after.signal.alpha
        assert (torch.stack([*after.frames()]).float() - torch.stack([*before.frames()]).float()).abs().max() <= 3


def test_colours_of_exr_are_divided_by_alpha(tmp_path):
    """In EXR, colours are multiplied by alpha, and linear light."""
    levels = np.linspace(0, 1, 64, dtype=np.float32) * np.ones((48, 1), np.float32)
    alpha = np.full((48, 64), 0.25, np.float32)
    frame = av.VideoFrame(64, 48, "gbrapf32le")
    for plane, values in zip(frame.planes, [levels * alpha] * 3 + [alpha], strict=True):
        np.frombuffer(plane, np.float32).reshape(48, -1)[:, :64] = values
    encoder = av.CodecContext.create("exr", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "gbrapf32le", Fraction(1, 25)
    frame.pts = 0
    (tmp_path / "in.exr").write_bytes(b"".join(map(bytes, [*encoder.encode(frame), *encoder.encode(None)])))
    finish(restoration(tmp_path / "in.exr", tmp_path / "out"))
    assert np.allclose(read_alpha(tmp_path / "out"), 0.25, atol=1 / 65535)
    with open_video(tmp_path / "out", deep=True) as reader:
        colours = reader.read([0])[0].numpy() / 65535
    assert np.abs(colours - expand(levels)[..., None]).max() < 2 / 65535


def expand(linear):
    """The curve of sRGB."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("source", ["in.mov", "prores.mov", "deep_frames"])
def test_alpha_is_enlarged_and_blended_between_frames(source, tmp_path):
    frames = ramps(count=4)
    path = save_source(tmp_path, source, frames)
    finish(
        restoration(path, tmp_path / "out.mkv", Blend(scale=2, frames=2), codec="ffv1", segment=3, tile=40, overlap=8)
    )
    alpha = torch.from_numpy(frames[..., 3]).double() / 255
    pairs = [torch.stack(((a + b) / 2, b)) for a, b in pairwise(alpha)]
    expected = imresize(torch.cat([alpha[:1], *pairs]), 2).clamp(0, 1).numpy()
    assert np.abs(read_alpha(tmp_path / "out.mkv") - expected).max() < 0.51 / 255 + 1e-5


def test_alpha_is_held_across_a_cut(tmp_path):
    frames = np.concatenate([ramps(count=5), ramps(count=5)])
    frames[5:, ..., :3] = np.random.default_rng(0).integers(0, 255, (48, 64, 3))
    frames[:5, ..., 3], frames[5:, ..., 3] = 40, 240
    finish(restoration(save_source(tmp_path, "in.mov", frames), tmp_path / "out", Blend(scale=1, frames=2)))
    levels = [frame.mean() * 255 for frame in read_alpha(tmp_path / "out")]
    assert np.allclose(levels, [40] * 10 + [240] * 9)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_parts_with_alpha_join(order, tmp_path):
    frames = ramps(count=8)
    path = save_source(tmp_path, "in.mov", frames)
    for part in order:
        whole = restoration(path, tmp_path / "out.mov", codec="prores", segment=2)
        whole.run([part])
    whole.finish()
    assert np.abs(read_alpha(tmp_path / "out.mov") - frames[..., 3] / 255).max() < 1 / 1023


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_alpha_is_rotated_with_the_frame(rotation, tmp_path):
    frames = ramps()
    path = save(tmp_path / "in.mov", frames, "qtrle", "argb", {}, rotation)
    finish(restoration(path, tmp_path / "out"))
    turned = np.rot90(frames[..., 3], rotation // 90, axes=(1, 2))
    assert np.array_equal(read_alpha(tmp_path / "out"), turned / 255)


@pytest.mark.parametrize("name", ["in.mov", "in.mkv"])
def test_alpha_of_fields_is_deinterlaced(name, tmp_path):
    frames = np.zeros((6, 64, 96, 4), np.uint8)
    for number, frame in enumerate(frames):
        for field in range(2):
            left = 10 + 6 * (2 * number + field)
            frame[field::2, left : left + 20] = 255
    path = save(tmp_path / name, frames, "prores_ks", "yuva444p10le", {"profile": "4444", "flags": "+ildct"})
    assert restoration(path, tmp_path / "out").reader.interlaced
    finish(restoration(path, tmp_path / "out"))
    alpha = read_alpha(tmp_path / "out")
    assert np.abs(alpha[2, ::2] - alpha[2, 1::2]).mean() < 0.2 * np.abs(frames[2, ::2] - frames[2, 1::2]).mean() / 255


def test_alpha_goes_beside_alpha_in_a_comparison(tmp_path):
    frames = ramps()
    path = save_source(tmp_path, "in.mov", frames)
    finish(restoration(path, tmp_path / "out", compare="side"))
    assert np.array_equal(read_alpha(tmp_path / "out"), np.concatenate([frames[..., 3]] * 2, axis=2) / 255)


@pytest.mark.parametrize("source", ["in.mkv", "vp9.webm"])
def test_alpha_comes_through_a_pipe(source, tmp_path, monkeypatch):
    frames, said = ramps(), []
    path = save_source(tmp_path, source, frames)
    for output, codec in (("out.mkv", "ffv1"), ("out.mp4", "auto")):
        with path.open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            options = RestoreOptions(codec=codec)
            restore_pipe(Bicubic(scale=1), "-", str(tmp_path / output), options, CPU, said.append)
    assert np.array_equal(read_alpha(tmp_path / "out.mkv"), frames[..., 3] / 255)
    assert read_alpha(tmp_path / "out.mp4") is None
    assert ["kept" in sentence for sentence in said if "standard input has an alpha channel" in sentence] == [
        True,
        False,
    ]


@pytest.mark.parametrize("source", ["in.mov", "vp9.webm", "frames", "in.gif"])
@pytest.mark.parametrize(("output", "codec"), [("out.mp4", "auto"), ("out.mkv", "hevc"), ("out.mov", "lossless")])
def test_lost_alpha_is_said(source, output, codec, tmp_path, capsys):
    path = save_source(tmp_path, source, ramps(count=2))
    restore(tmp_path, input=path, output=tmp_path / output, codec=codec)
    assert read_alpha(tmp_path / output) is None
    said = " ".join(capsys.readouterr().err.split())
    able = {"out.mp4": "ffv1, prores (in out.mov)", "out.mkv": "ffv1, prores", "out.mov": "ffv1 (in out.mkv), prores"}
    assert f"{path} has an alpha channel: left out; {able[output]} and folders of PNGs can store it." in said


def test_opaque_pictures_have_no_alpha(tmp_path):
    frames = ramps(count=2)
    frames[..., 3] = 255
    for source in ("in.gif", "in.mov"):  # their decoders return alpha for every frame
        whole = restoration(save_source(tmp_path, source, frames), tmp_path / "out.mp4")
        assert not whole.reader.has_alpha
        assert not any("alpha" in sentence for sentence in whole.losses)


def test_a_codec_without_alpha_refuses_it(tmp_path):
    with pytest.raises(VideoError, match=r"h264 cannot store alpha; choose ffv1 \(in a.mkv\), prores \(in a.mov\)"):
        VideoWriter(tmp_path / "a.webm", Fraction(25), codec="h264", signal=Signal(alpha=True))


# --- chroma ------------------------------------------------------------------------------------------


def stripes(path, pixel_format, codec="libx264"):
    """A video with lines in red and blue, as 4:2:0 cannot show them, or in 4:4:4, a chequerboard."""
    pixels = np.full((64, 64, 4), 255, np.uint8)
    columns = np.arange(64) if "444" in pixel_format else np.zeros(64, int)
    red = (columns + np.arange(64)[:, None]) % 2
    pixels[..., :3] = np.where(red[..., None], (230, 30, 30), (30, 30, 230))
    options = {"qp": "0"} if codec == "libx264" else {}
    save(path, np.stack([pixels] * 3), codec, pixel_format, options)
    return path


def pixel_format(path):
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.pix_fmt


def difference(one, other):
    with open_video(one) as a, open_video(other) as b:
        return (a.read([1]).float() - b.read([1]).float()).abs().mean().item()


@pytest.mark.parametrize(
    ("source", "output", "options", "stored"),
    [
        ("yuv444p", "out.mp4", {"chroma": "source"}, "yuv444p"),
        ("yuv444p", "out.mp4", {"chroma": "444", "codec": "hevc"}, "yuv444p"),
        ("yuv444p10le", "out.mkv", {"chroma": "source"}, "yuv444p10le"),
        ("yuv422p", "out.mp4", {"chroma": "source"}, "yuv422p"),
        ("yuv422p10le", "out.mov", {"chroma": "422"}, "yuv422p10le"),
        ("yuv444p", "out.mov", {"codec": "prores"}, "yuv444p10le"),
        ("yuv422p", "out.mov", {"codec": "prores"}, "yuv422p10le"),
        ("yuv420p", "out.mp4", {"chroma": "source"}, "yuv420p"),
        ("yuv422p", "out.mkv", {"codec": "ffv1", "chroma": "source"}, "bgr0"),
    ],
)
def test_chroma_is_kept(source, output, options, stored, tmp_path):
    path = stripes(tmp_path / "in.mkv", source)
    quality = {} if options.get("codec") in ("prores", "ffv1") else {"quality": 2}
    whole = finish(restoration(path, tmp_path / output, **options, **quality))
    assert pixel_format(tmp_path / output) == stored
    assert not any("chroma" in sentence for sentence in whole.losses)
    assert difference(path, tmp_path / output) < 3


@pytest.mark.parametrize(("source", "spelt"), [("yuv444p", "4:4:4"), ("yuv422p", "4:2:2"), ("yuv422p10le", "4:2:2")])
@pytest.mark.parametrize("output", ["out.mp4", "out.webm"])
def test_lost_chroma_is_said(source, spelt, output, tmp_path, capsys):
    path = stripes(tmp_path / "in.mkv", source)
    restore(tmp_path, input=path, output=tmp_path / output)
    assert pixel_format(tmp_path / output).startswith("yuv420p")
    assert difference(path, tmp_path / output) > 20
    said = " ".join(capsys.readouterr().err.split())
    assert f"{path} has {spelt} chroma, {tmp_path / output} 4:2:0; chroma=source keeps" in said


def test_chroma_of_pictures_is_that_of_their_files(tmp_path):
    for name, options, lost in (("a.png", {}, True), ("a.jpg", {"subsampling": 0}, True), ("b.jpg", {}, False)):
        folder = tmp_path / name
        folder.mkdir()
        for frame, number in zip(ramps(count=2), "12", strict=True):
            Image.fromarray(frame[..., :3]).save(folder / f"{number}{folder.suffix}", **options)
        losses = restoration(folder, tmp_path / "out.mp4").losses
        assert any("4:4:4 chroma" in sentence for sentence in losses) == lost


@pytest.mark.parametrize(
    ("output", "options", "sentence"),
    [
        (
            "out.mp4",
            {"chroma": "444", "codec": "av1"},
            r"av1, which stores only chroma=420; choose h264, hevc, prores \(",
        ),
        (
            "out.mp4",
            {"chroma": "source", "codec": "av1"},
            r"av1, which stores only chroma=420; choose h264, hevc, ffv1",
        ),
        ("out.mkv", {"chroma": "420", "codec": "ffv1"}, "ffv1, which stores RGB"),
        ("out.mov", {"chroma": "420", "codec": "prores"}, "prores, which stores only chroma=422 or 444"),
    ],
)
def test_chroma_that_a_codec_cannot_store_is_refused(output, options, sentence, tmp_path):
    path = stripes(tmp_path / "in.mkv", "yuv444p")
    with pytest.raises(VideoError, match=sentence):
        restoration(path, tmp_path / output, **options)


def test_chroma_is_a_number_on_the_command_line(tmp_path):
    path = stripes(tmp_path / "in.mkv", "yuv420p")
    restore(tmp_path, input=path, output=tmp_path / "out.mp4", chroma=444)
    assert pixel_format(tmp_path / "out.mp4") == "yuv444p"


def test_maps_are_opaque(tmp_path):
    path = save_source(tmp_path, "in.mov", ramps(count=4))
    description = to_plain(compose("model=dsfn", "size=mini").model.network)
    weights = {f"network.{name}": value for name, value in instantiate(description).state_dict().items()}
    torch.save({"network": description, "state_dict": weights}, tmp_path / "dsfn.ckpt")
    for name, options in {"restored": {}, "maps": {"show": "offsets"}}.items():
        output = tmp_path / f"{name}.mkv"
        config = compose("task=restore", f"checkpoint={tmp_path / 'dsfn.ckpt'}", f"input={path}", f"output={output}")
        OmegaConf.update(config, "codec", "ffv1")
        for option, value in options.items():
            OmegaConf.update(config, option, value)
        run_task(config, tmp_path)
        assert (read_alpha(output) is None) == (name == "maps")


@pytest.mark.parametrize(
    ("codec", "depth", "sentence"),
    [
        ("h264", 10, "is written with 8 of 10 bits, the maximum of h264."),
        ("prores", 12, "is written with 10 of 12 bits, the maximum of prores."),
        ("hevc", 12, "is written with 12 bits, which few players show; codec=h264 writes 8."),
        ("hevc", 10, ""),
        ("ffv1", 12, ""),
    ],
)
def test_depth_is_said_once(codec, depth, sentence, tmp_path, caplog):
    frames = np.full((3, 48, 64, 3), 700, np.uint16)
    source, output = tmp_path / "in.mkv", tmp_path / "out.mov"
    output = output.with_suffix(".mkv") if codec == "ffv1" else output
    with VideoWriter(source, 25, "ffv1", signal=Signal(depth)) as writer:
        for frame in frames:
            writer.write(torch.from_numpy(frame))
    whole = finish(restoration(source, output, codec=codec, segment=1))
    assert [text for text in whole.losses if "bits" in text] == ([f"{output} {sentence}"] if sentence else [])
    assert not caplog.records


@pytest.mark.parametrize(
    ("size", "codec", "is_said"), [((48, 64), "h264", 0), ((47, 64), "h264", 1), ((48, 65), "ffv1", 0)]
)
def test_chroma_of_odd_sizes_is_said(size, codec, is_said, tmp_path):
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.zeros((*size, 3), np.uint8), "rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    sentence = f"{output} has an odd side, and therefore 4:4:4 chroma, which some players do not show."
    assert restoration(source, output, codec=codec).losses.count(sentence) == is_said
