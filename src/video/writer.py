"""Write frames to video files and folders of images, with the audio and metadata of the video they come from.

The output keeps and tags the colour description of the source (:mod:`src.video.colorspace`). Equal frames produce equal
bytes. A file appears under its name only when it is complete.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.codec.context import ThreadType
from av.video.reformatter import VideoReformatter
from PIL import Image

from src.errors import VideoError
from src.video.colorspace import Signal, from_rgb, rescale_depth, to_samples
from src.video.containers import (
    ContainerWriter,
    PartHeader,
    check_container,
    check_frame_folder,
    make_write_error,
    replace_folder,
)
from src.video.encoders import (
    CODECS,
    describe_quality,
    describe_size_limit,
    resolve_chroma,
    resolve_codec,
    suggest_codecs,
)
from src.video.mux import join
from src.video.reader import open_video
from src.video.spatial import SpatialLayout
from src.video.stream_copy import open_source

log = logging.getLogger(__name__)

MAX_REORDERING = 16  # frames that may be decoded before one is presented, in H.264 and HEVC


class VideoWriter:
    """Writes one clip with the size of its first frame; a context manager.

    Attributes:
        codec: the codec's name; ``png`` for folders.

    Args:
        path: a video file, with a suffix that selects the container, or a folder (no suffix, or a trailing slash) of
            ``00000000.png``, ``00000001.png`` and so on, with 16 bits if ``signal`` has more than 8. An existing file,
            or a folder of only such frames, is replaced. A ``.nut`` file is a part for :func:`src.video.mux.join`;
            parts written with the same arguments can be joined.
        fps: frames per second, exact up to a denominator of 65536.
        codec: ``h264`` (8 bits), ``hevc``, ``av1``, ``prores`` (4:2:2), ``ffv1`` (RGB, exact at every depth, for
            archives), ``lossless`` (RGB H.264, 8 bits), or ``auto``: AV1 for .webm, otherwise H.264 for 8 bits and HEVC
            above. Ignored for folders.
        quality: constant rate factor, lower is better: 0 to 51 (default 17 for H.264, 19 for HEVC), for AV1 0 to 63
            (default 20).
        chroma: subsampling of chroma: ``420``, ``422``, ``444``, or ``source``: as fine as the source's; None: 4:2:0,
            which every player shows, or for ProRes, as fine as the source's. RGB has no subsampling.
        audio_from: copy audio, subtitles, chapters and metadata of this file; its first visible frame is aligned with
            the first frame written.
        metadata: tags of the container, ``{"title": ...}``; the attribute may be modified until the context exits.
        aspect: pixel aspect ratio, width over height.
        tick: resolution of ``time`` in :meth:`write`, in seconds (default: one frame).
        signal: colour description and bit depth of the frames, and whether they have alpha, which FFV1, ProRes 4444
            and PNG store.
        preset: encoder speed: ``ultrafast`` to ``placebo``, for AV1 ``0`` (slowest) to ``13``.
        source_size: ``(height, width)`` of the video that ``signal`` comes from, or None: players guess the colour
            matrix of untagged video from its size.
        layout: spatial layout of the frames (360 degrees, 3D); for a part, it is an argument of ``join``.
        gop: maximum key frame interval, for fast random access; setting it also disables B-frames. None: the encoder's
            default.

    Raises:
        VideoError: the container cannot store the codec, the codec neither alpha nor the requested chroma, or the
            folder holds other files.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction,
        codec: str = "auto",
        quality: int | None = None,
        audio_from: Path | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        aspect: Fraction | int = 1,
        tick: Fraction | None = None,
        signal: Signal = Signal(),  # noqa: B008 - frozen
        preset: str | int | None = None,
        source_size: tuple[int, int] | None = None,
        gop: int | None = None,
        chroma: str | None = None,
        layout: SpatialLayout | None = None,
    ) -> None:
        self.path = Path(path)
        self.fps = Fraction(fps).limit_denominator(1 << 16)  # containers store numerator and denominator in 32 bits
        codec = resolve_codec(path, codec, signal.depth)
        self.codec, self._codec = codec, CODECS[codec]
        if quality is not None and (self._codec.crf is None or not 0 <= quality <= self._codec.max_crf):
            raise VideoError(f"{codec} does not support quality={quality}: {describe_quality(self._codec)}")
        preset = None if preset is None else str(preset)  # AV1's are typed as numbers
        if preset is not None and preset not in self._codec.presets:
            choices = f"choose {', '.join(self._codec.presets)}" if self._codec.presets else "it has no presets"
            raise VideoError(f"{codec} has no preset {preset}; {choices}")
        self._quality, self._preset, self._audio_from = quality, preset, audio_from
        self._layout = layout
        self.metadata, self._aspect, self._gop = dict(metadata or {}), Fraction(aspect), gop
        self._tick = Fraction(tick) if tick else 1 / self.fps
        self._signal, self._source_size = signal, source_size
        self._is_folder = not self.path.suffix or str(path).endswith(("/", os.sep))
        if self._is_folder:
            self.codec, self._chroma = "png", "444"
        else:
            self._chroma = resolve_chroma(codec, chroma, signal.chroma, self.path)
            if signal.alpha and not self._codec.alpha_formats:
                able = suggest_codecs(self.path, lambda codec: bool(codec.alpha_formats))
                raise VideoError(f"{codec} cannot store alpha; choose {able}, or a folder of PNGs")
        self._is_part = self.path.suffix.lower() == ".nut"
        self._draft = self.path.absolute().with_name(f".{self.path.stem}.{os.getpid()}.part{self.path.suffix}")
        if not self._is_folder and not self._is_part:
            self._draft = self._draft.with_suffix(".nut")
        # Every video is encoded to a part first, then muxed, so that joined parts and whole videos are equal.
        self._output = ContainerWriter(self.path if self._is_part else self._draft, self._codec.encoder, self.path)
        self._stream: Any = None
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._count = self._shift = self._packets = 0
        self._timestamps: list[int] = []  # presentation times, in ticks
        self._start = Fraction(0)

    @property
    def _formats(self) -> Mapping[int, str]:
        """Pixel formats by depth."""
        return self._codec.alpha_formats if self._signal.alpha else self._codec.pixel_formats

    @property
    def depth(self) -> int:
        """Bits per sample that are written of those of the signal."""
        if self._is_folder:
            return self._signal.depth
        return min(self._formats, key=lambda bits: (abs(bits - self._signal.depth), bits))

    def check(self, size: tuple[int, int] | None = None) -> None:
        """Check, as far as possible in advance, that the file can be written with frames of ``(height, width)``.

        Raises:
            VideoError: the container cannot store the codec, the codec does not support the size, or the folder holds
                other files.
        """
        if self._is_folder:
            check_frame_folder(self.path)
        else:
            check_container(self.path, self._codec.encoder)
        if not self._is_folder and size and (limit := describe_size_limit(self._codec, size)):
            able = suggest_codecs(self.path, lambda codec: not describe_size_limit(codec, size))
            raise VideoError(f"{self.codec} {limit}; choose {able}")
        if self.path.suffix.lower() in (".mp4", ".m4v", ".mov") and size and max(size) > 65535:
            raise VideoError(
                f"{self.path} cannot store {size[1]}x{size[0]} pixels, only 65535 a side; write {self.path.stem}.mkv "
                "instead"
            )

    def chroma_of(self, size: tuple[int, int]) -> str:
        """Name the chroma subsampling of frames of ``(height, width)`` in the file, as in ``420``; 444 for RGB."""
        is_odd = not self._is_folder and (size[0] % 2 or size[1] % 2)
        return self._codec.odd_chroma if is_odd else self._chroma

    def __enter__(self) -> VideoWriter:
        self.check()
        if not self._is_folder:
            if self._audio_from:
                open_source(self._audio_from).close()
            self._output.__enter__()
            return self
        try:
            self._draft.mkdir(parents=True)
        except OSError as error:
            raise make_write_error(self.path, error) from error
        if self._audio_from:
            log.warning("%s is a folder of images: the audio of %s is not copied", self.path, self._audio_from)
        return self

    def write(self, frame: torch.Tensor | np.ndarray, time: Fraction | None = None) -> None:
        """Append a frame presented at ``time`` (seconds), by default its number over ``fps``.

        Args:
            frame: ``(H, W, 3)``, or ``(H, W, 4)`` if ``signal`` has alpha; uint8, or uint16 with values of
                ``signal.depth`` bits if that is above 8; or network output, ``(3 or 4, H, W)`` floating point, clamped
                to [0, 1].
            time: later than that of the previous frame.

        Raises:
            ValueError: wrong dtype, shape or size, or a time not after the previous one.
            VideoError: the encoder or the file system fails.
        """
        if isinstance(frame, torch.Tensor) and frame.is_floating_point():
            frame = to_samples(frame, self._signal.depth)
        pixels = np.ascontiguousarray(frame.cpu().numpy() if isinstance(frame, torch.Tensor) else frame)
        dtype, channels = np.uint8 if self._signal.depth == 8 else np.uint16, 3 + self._signal.alpha
        if pixels.dtype != dtype or pixels.ndim != 3 or pixels.shape[2] != channels:
            expected = f"{np.dtype(dtype)} (H, W, {channels})"
            raise ValueError(f"expected a frame of {expected}, got {pixels.dtype} {pixels.shape}")
        if self._size not in (None, pixels.shape[:2]):
            raise ValueError(f"frame {self._count} is {pixels.shape[:2]}, the frames before it are {self._size}")
        try:
            if self._is_folder:
                self._write_image(pixels, self._draft / f"{self._count:08d}.png")
            else:
                self._encode(pixels, Fraction(self._count) / self.fps if time is None else Fraction(time))
        except (av.FFmpegError, OSError) as error:
            raise make_write_error(self.path, error) from error
        self._size = pixels.shape[:2]
        self._count += 1

    def _write_image(self, pixels: np.ndarray, file: Path) -> None:
        if self._signal.depth == 8:
            Image.fromarray(pixels).save(file, compress_level=3)
            return
        name = "rgba64" if self._signal.alpha else "rgb48"
        if self._stream is None:  # Pillow cannot write 16-bit RGB
            self._stream = context = av.CodecContext.create("png", "w")
            context.height, context.width, context.pix_fmt = *pixels.shape[:2], f"{name}be"
            context.time_base = 1 / self.fps
            context.options = {"compression_level": "3"}
        values = rescale_depth(pixels, self._signal.depth, 16)
        frame = av.VideoFrame.from_ndarray(values, f"{name}le").reformat(format=f"{name}be")
        frame.pts = self._count
        file.write_bytes(b"".join(bytes(packet) for packet in self._stream.encode(frame)))

    def _encode(self, pixels: np.ndarray, time: Fraction) -> None:
        timestamp = round(time / self._tick)
        if self._size is None:
            self._start, self._shift = timestamp * self._tick, min(0, timestamp)
            self._open_stream((pixels.shape[0], pixels.shape[1]))
        elif timestamp <= self._timestamps[-1]:
            raise ValueError(f"frame {self._count} at {float(time)} s is not later than the frame before it")
        self._timestamps.append(timestamp)
        frame = from_rgb(pixels, self._stream.pix_fmt, self._coded_signal, self._reformatter)
        frame.pts, frame.time_base = timestamp - self._shift, self._tick
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            # Any decoding time not after presentation will do: NUT stores none, and x265 sets none for a single frame.
            number = self._packets - (MAX_REORDERING if self._codec.encoder.startswith("libx26") else 0)
            packet.dts = self._timestamps[max(0, number)] - self._shift + min(0, number)
            self._output.container.mux_one(packet)
            self._packets += 1

    def _open_stream(self, size: tuple[int, int]) -> None:
        codec, signal, container = self._codec, self._signal, self._output.container
        self.check(size)
        pixel_format = self._formats[self.depth]
        if codec.chroma:
            pixel_format = pixel_format.replace(codec.chroma[0], self.chroma_of(size))
        self._coded_signal = signal.for_pixel_format(pixel_format, self._source_size)
        if codec.encoder == "prores_ks":  # always limited range
            self._coded_signal = replace(self._coded_signal, range=1)
        if codec.encoder == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only; the encoder has no option for it
        self._stream = stream = container.add_stream(
            codec.encoder, rate=self.fps, options=self._make_options(pixel_format)
        )
        stream.height, stream.width = size
        stream.pix_fmt = pixel_format
        if codec.threads:
            context = stream.codec_context
            context.thread_type, context.thread_count = ThreadType.FRAME, codec.threads
        tags = self._coded_signal.container_tags(size, self._source_size)
        self._output.describe(stream, PartHeader(self.fps, self._aspect, tags, self._shift), self._tick)

    def _make_options(self, pixel_format: str) -> dict[str, str]:
        codec, options = self._codec, dict(self._codec.options)
        if codec.encoder == "prores_ks":
            options["profile"] = "4444" if "444" in pixel_format else "hq"
        if codec.crf is not None:
            options["crf"] = str(codec.crf if self._quality is None else self._quality)
        if self._gop is not None:
            options |= {"g": str(self._gop), "bf": "0"}
        if codec.encoder.startswith("libx264") and torch.backends.cpu.get_cpu_capability() == "AVX512":
            # With macroblock trees and rows of macroblocks not a multiple of 8, equal frames produced different bytes
            # on each run. Without its AVX-512 code, x264 was never observed to do so.
            options["x264-params"] = "asm=avx2"
        if codec.presets:
            options["preset"] = self._preset or codec.preset
        if codec.hdr:
            option, *fields = codec.hdr
            values = [options.get(option, ""), *self._format_hdr(codec.encoder == "libx265", *fields)]
            options[option] = ":".join(filter(None, values))
        return options

    def _format_hdr(self, integers: bool, display: str, light: str) -> Iterator[str]:
        """Yield encoder options for mastering display and light level; ``integers`` in the units of HEVC's SEI."""
        *chroma, darkest, brightest = self._signal.mastering or (0, 0)
        if chroma:
            numbers = [round(n * 50000) if integers else float(n) for n in chroma]
            red, green, blue, white = (f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2], strict=True))
            low, high = (round(n * 10000) if integers else float(n) for n in (darkest, brightest))
            yield f"{display}=G{green}B{blue}R{red}WP{white}L({high},{low})"
        if self._signal.light:
            yield f"{light}={','.join(map(str, self._signal.light))}"

    def _find_origin(self) -> tuple[Fraction, int | None]:
        """Return the time of the first frame of ``audio_from``, and the index of its video stream."""
        try:
            reader = open_video(self._audio_from) if self._audio_from else None
        except VideoError:  # audio only, or unreadable video: use its clock
            reader = None
        return (reader.times[0], reader.stream) if reader else (Fraction(0), None)

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None and not self._count:
                raise VideoError(f"{self.path} was not written: no frames were passed to the writer")
            if self._is_folder:
                if kind is None:
                    replace_folder(self._draft, self.path)
                return
            if kind is None:
                self._mux(self._stream.encode(None))
            self._output.__exit__(kind, *exception)
            if kind is None and not self._is_part:
                origin, stream = self._find_origin()
                from_source: dict[str, Any] = {"source": self._audio_from, "origin": origin, "stream": stream}
                tags: dict[str, Any] = {"metadata": self.metadata, "layout": self._layout}
                join([self._draft], self.path, **from_source, start=self._start, **tags)
        except (av.FFmpegError, OSError) as error:
            raise make_write_error(self.path, error) from error
        finally:
            if self._is_folder:
                shutil.rmtree(self._draft, ignore_errors=True)
            else:
                self._output.discard()
                self._draft.unlink(missing_ok=True)


def write_video(path: str | Path, frames: Iterable[torch.Tensor | np.ndarray], fps: Fraction, **options: Any) -> None:
    """Write ``frames`` at a constant rate; ``options`` are those of :class:`VideoWriter`."""
    with VideoWriter(path, fps, **options) as writer:
        for frame in frames:
            writer.write(frame)
