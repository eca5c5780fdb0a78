"""Images of film are frames like PNGs: DPX, EXR, TIFF, SGI and TGA, with right values at every depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from src.errors import VideoError
from src.video.discovery import find_videos, is_image_pattern
from src.video.images import load_image, read_size
from src.video.reader import open_video
from tests.video.film import write_dpx, write_exr, write_tiff

SIZE = (7, 13)  # odd, so that lines end within words


def draw(bits: int, channels: int, count: int = 1) -> np.ndarray:
    """Draw samples ``(T, H, W, C)`` with every bit in use, black and white among them."""
    samples = np.random.default_rng(bits).integers(0, 2**bits, (count, *SIZE, channels))
    samples[:, 0, 0], samples[:, 0, 1] = 0, 2**bits - 1
    return samples.astype(np.uint8 if bits == 8 else np.uint16)


def expand(samples: np.ndarray) -> np.ndarray:
    """Return RGB of grey or RGBA samples."""
    return np.broadcast_to(samples[..., :3], (*samples.shape[:-1], 3))


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear.astype(np.float64), 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def encode_with_ffmpeg(path: Path, codec: str, pixel_format: str, samples: np.ndarray, **options: str) -> Path:
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = samples.shape[:2]
    context.pix_fmt, context.time_base, context.options = pixel_format, Fraction(1, 25), options
    frame = av.VideoFrame.from_ndarray(samples, pixel_format)
    path.write_bytes(b"".join(map(bytes, [*context.encode(frame), *context.encode(None)])))
    return path


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_dpx(tmp_path: Path, bits: int, order: str, channels: int) -> None:
    samples = draw(bits, channels, count=3)
    for number, image in enumerate(samples):
        write_dpx(tmp_path / f"f{number:03d}.dpx", image, bits, order=order)
    reader = open_video(tmp_path, deep=True, fps=Fraction(24))
    assert (len(reader), reader.size, reader.signal.depth, reader.fps, reader.end) == (
        3,
        SIZE,
        bits,
        24,
        Fraction(1, 8),
    )
    assert np.array_equal(reader.read([2, 0]).numpy(), expand(samples[[2, 0]]))
    assert np.array_equal(torch.stack(list(reader.frames())).numpy(), expand(samples))
    shallow = open_video(tmp_path).read([0, 1, 2]).numpy()
    assert np.array_equal(shallow, np.rint(expand(samples) / (2**bits - 1) * 255))


def test_logarithmic_dpx_is_taken_as_it_is(tmp_path: Path) -> None:
    samples = draw(10, 3)[0]
    for transfer in (1, 3):
        reader = open_video(write_dpx(tmp_path / "log.dpx", samples, 10, transfer=transfer), deep=True)
        assert np.array_equal(reader.read([0])[0].numpy(), samples)
        assert reader.notes == ("has logarithmic values (film density), which are taken as they are",)
    assert open_video(write_dpx(tmp_path / "video.dpx", samples, 10, transfer=6)).notes == ()


@pytest.mark.parametrize("names", ["RGB", "RGBA", "Y"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_linear_light_of_exr_becomes_srgb(tmp_path: Path, dtype: str, names: str) -> None:
    values = np.random.default_rng(0).random((len(names), *SIZE)).astype(dtype) ** 2
    values[:, 0, :5] = [0, 0.18, 1, 2.5, -0.5]  # black, the grey card, white, a highlight, out of gamut
    values[:, 0, 5:7] = np.nan, np.inf
    for number in range(2):
        channels = {name: values[i] for i, name in enumerate(names)}
        write_exr(tmp_path / f"{number}.exr", channels, dtype)
    expected = encode_srgb(np.nan_to_num(expand(np.moveaxis(values, 0, 2)), nan=0, posinf=1))
    reader = open_video(tmp_path, deep=True)
    deep, shallow = reader.read([0])[0].numpy(), open_video(tmp_path).read([1])[0].numpy()
    assert reader.signal.depth == 16
    assert np.abs(deep - 65535 * expected).max() < 0.6
    assert np.abs(shallow - 255 * expected).max() < 0.51
    assert [int(level) for level in shallow[0, :7, 0]] == [0, 118, 255, 255, 0, 0, 255]  # sRGB's middle grey is 118
    sentence = "has floating-point values, read as linear light: converted to sRGB, and clipped above 1.0 (white)"
    assert reader.notes == (sentence,)


def test_exr_of_layers_alone_is_refused(tmp_path: Path) -> None:
    file = write_exr(tmp_path / "a.exr", {f"diffuse.{name}": np.ones(SIZE) for name in "RGB"})
    with pytest.raises(VideoError, match=r"has the channels diffuse.B, diffuse.G, diffuse.R; save R, G and B, or Y"):
        open_video(file)


@pytest.mark.parametrize("compression", ["rle", "zip1", "zip16"])
@pytest.mark.parametrize("kind", ["half", "float"])
def test_compressed_exr(tmp_path: Path, compression: str, kind: str) -> None:
    linear = np.random.default_rng(0).random((*SIZE, 3)).astype(np.float16).astype(np.float32)
    file = encode_with_ffmpeg(tmp_path / "a.exr", "exr", "gbrpf32le", linear, compression=compression, format=kind)
    assert np.abs(load_image(file, 16) - 65535 * encode_srgb(linear)).max() < 0.6


@pytest.mark.parametrize("compression", ["zip1", "zip16"])
@pytest.mark.parametrize("place", [0.35, 0.9])
def test_damaged_lines_of_exr_are_refused(tmp_path: Path, compression: str, place: float) -> None:
    linear = np.random.default_rng(0).random((64, 48, 3)).astype(np.float16).astype(np.float32)
    file = encode_with_ffmpeg(tmp_path / "a.exr", "exr", "gbrpf32le", linear, compression=compression, format="float")
    load_image(file, 16)
    damage(file, place)
    with pytest.raises(VideoError, match=r"a.exr cannot be read as an image: its lines \d+ to \d+ are damaged$"):
        load_image(file, 16)


@pytest.mark.parametrize("place", [0.3, 0.8])
@pytest.mark.parametrize(("pixel_format", "bits"), [("rgb24", 8), ("rgb48le", 16)])
def test_damaged_strips_of_tiff_are_refused(tmp_path: Path, place: float, pixel_format: str, bits: int) -> None:
    samples = np.random.default_rng(0).integers(0, 2**bits // 8, (64, 48, 3)).astype(f"uint{bits}")
    file = encode_with_ffmpeg(tmp_path / "a.tif", "tiff", pixel_format, samples, compression_algo="deflate")
    load_image(file, bits)
    damage(file, place)
    with pytest.raises(VideoError, match=r"a\.tif cannot be read as an image: "):
        load_image(file, bits)


def damage(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    start = int(place * len(content))
    content[start : start + 8] = bytes(255 - byte for byte in content[start : start + 8])
    file.write_bytes(content)


@pytest.mark.parametrize("compression", ["raw", "packbits", "lzw", "deflate"])
@pytest.mark.parametrize(("pixel_format", "bits"), [("rgb24", 8), ("rgb48le", 16), ("gray16le", 16), ("rgba64le", 16)])
def test_compressed_tiff(tmp_path: Path, compression: str, pixel_format: str, bits: int) -> None:
    samples = draw(bits, {"gray16le": 1, "rgba64le": 4}.get(pixel_format, 3))[0]
    array = samples[..., 0] if pixel_format == "gray16le" else samples
    file = encode_with_ffmpeg(tmp_path / "a.tif", "tiff", pixel_format, array, compression_algo=compression)
    assert np.array_equal(load_image(file, bits), expand(samples))
    assert np.array_equal(load_image(file, 8), np.rint(expand(samples) / (2**bits - 1) * 255))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_layouts_of_tiff(tmp_path: Path, bits: int, order: str, channels: int) -> None:
    samples = draw(bits, channels)[0]
    colour = expand(samples) if channels > 2 else expand(samples[..., :1])
    files = [write_tiff(tmp_path / "strip.tif", samples, order=order)]
    if bits == 8 or channels == 1:
        files.append(write_tiff(tmp_path / "tiles.tiff", samples, order=order, tile=16))
    if channels > 2:
        files.append(write_tiff(tmp_path / "planes.tif", samples, order=order, planar=True))
    for file in files:
        assert np.array_equal(load_image(file, bits), colour)
        assert read_size(file) == SIZE


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floating_point_tiff_is_linear_light(tmp_path: Path, order: str, channels: int) -> None:
    linear = np.random.default_rng(0).random((*SIZE, channels)).astype(np.float32) * 1.5
    file = write_tiff(tmp_path / "a.tif", linear, order=order)
    assert np.abs(load_image(file, 16) - 65535 * encode_srgb(expand(linear))).max() < 0.6
    assert "linear light" in open_video(write_images(tmp_path / "clip", [file, file])).notes[0]


def write_images(folder: Path, files: Sequence[Path]) -> Path:
    folder.mkdir()
    for number, file in enumerate(files):
        (folder / f"{number}{file.suffix}").write_bytes(file.read_bytes())
    return folder


def test_tiffs_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    """FFmpeg returns wrong pixels for both without an error."""
    tiled = write_tiff(tmp_path / "tiled.tif", draw(16, 3)[0], tile=16)
    for read in (open_video, lambda file: load_image(file, 16)):
        with pytest.raises(VideoError, match=r"tiled.tif is a tiled TIFF of 16 bits, .* save it without tiles"):
            read(tiled)
    half = write_tiff(tmp_path / "half.tif", np.ones((*SIZE, 3), np.float16))
    with pytest.raises(VideoError, match=r"half.tif has 16-bit floats; save 16-bit integers instead"):
        load_image(half, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_upright(tmp_path: Path, orientation: int) -> None:
    samples = draw(8, 3)[0]
    with Image.open(write_tiff(tmp_path / "8.tif", samples, orientation=orientation)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    file = write_tiff(tmp_path / "16.tif", samples.astype(np.uint16) * 257, orientation=orientation)
    assert np.array_equal(load_image(file, 16), expected.astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format", "bits"),
    [
        (".sgi", "sgi", "rgb24", 8),
        (".sgi", "sgi", "rgb48be", 16),
        (".sgi", "sgi", "rgba64be", 16),
        (".tga", "targa", "bgr24", 8),
        (".tga", "targa", "bgra", 8),
        (".ppm", "ppm", "rgb48be", 16),
        (".pgm", "pgm", "gray16be", 16),
        (".png", "png", "rgb48be", 16),
    ],
)
def test_other_formats(tmp_path: Path, suffix: str, codec: str, pixel_format: str, bits: int) -> None:
    channels = 4 if "a" in pixel_format[3:] else 1 if pixel_format == "gray16be" else 3
    samples = draw(bits, channels)[0]
    file = encode_with_ffmpeg(
        tmp_path / f"a{suffix}", codec, pixel_format, samples[..., 0] if channels == 1 else samples
    )
    colour = expand(samples[..., [2, 1, 0]] if pixel_format.startswith("bgr") else samples)
    assert np.array_equal(load_image(file, bits), colour)
    assert np.array_equal(load_image(file, 8), np.rint(colour / (2**bits - 1) * 255))


def write_dpx_file(path: Path) -> Path:
    return write_dpx(path, draw(10, 3)[0], 10)


def write_tiff_file(path: Path) -> Path:
    return write_tiff(path, np.full((*SIZE, 3), 0.18, np.float32))


def write_exr_file(path: Path) -> Path:
    return write_exr(path, {name: np.ones(SIZE) for name in "RGB"})


@pytest.mark.parametrize(
    ("suffix", "write"), [(".dpx", write_dpx_file), (".exr", write_exr_file), (".tif", write_tiff_file)]
)
def test_sequences_are_found(tmp_path: Path, suffix: str, write: Callable[[Path], Path]) -> None:
    folder = tmp_path / "scans" / "reel"
    folder.mkdir(parents=True)
    files = [write(folder / f"f{number}{suffix.upper()}") for number in (9, 10, 100)]
    assert find_videos(tmp_path) == [folder]
    assert is_image_pattern(folder / f"f1*{suffix.upper()}")
    assert len(open_video(folder / f"f1*{suffix.upper()}")) == 2
    single = open_video(files[0])
    assert (len(single), single.name, single.backend) == (1, "f9", "frames")
    assert torch.equal(single.read([0]), open_video(folder).read([0]))
    (folder / "f9.png").touch()
    with pytest.raises(VideoError, match=rf"reel has {' and '.join(sorted((suffix, '.png')))} images; keep only"):
        open_video(folder)


def test_both_suffixes_of_tiff_are_one_kind(tmp_path: Path) -> None:
    for name in ("0.tif", "1.tiff"):
        write_tiff(tmp_path / name, draw(16, 3)[0])
    assert len(open_video(tmp_path, deep=True)) == 2


@pytest.mark.parametrize("share", [0.5, 0.02])
@pytest.mark.parametrize(("suffix", "write"), [(".dpx", write_dpx_file), (".exr", write_exr_file)])
def test_cut_off_images_are_refused(tmp_path: Path, suffix: str, write: Callable[[Path], Path], share: float) -> None:
    for number in range(2):
        file = write(tmp_path / f"{number}{suffix}")
    file.write_bytes(file.read_bytes()[: round(share * file.stat().st_size)])
    with pytest.raises(VideoError, match=rf"1\{suffix} cannot be read as an image"):
        open_video(tmp_path).read([1])
