"""Frames into video files and folders of images, with what goes with the video that they were made from.

What is written means what its source means (:mod:`src.video.colorspace`), and says so. The same frames give the same
bytes. A file appears under its name only when it is whole.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.codec.context import ThreadType
from av.video.reformatter import VideoReformatter
from PIL import Image

from src.errors import VideoError
from src.video.colorspace import Signal, from_rgb, rescaled, to_samples
from src.video.containers import About, Output, check, check_folder, failed, put_folder
from src.video.mux import join
from src.video.reader import open_video
from src.video.stream_copy import opened

log = logging.getLogger(__name__)

SPEEDS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
MOST_AHEAD = 16  # frames that may be decoded before one is shown, in H.264 and HEVC


class _Codec(NamedTuple):
    encoder: str
    crf: int | None  # constant quality where nothing is asked for, smaller is better; None: there is no choice
    worst: int
    presets: tuple[str, ...]
    preset: str
    threads: int  # as results depend on it; 0: they do not
    pixels: dict[int, str]  # by depth
    odd: str  # of chroma, where height or width are odd and so have no half; empty: such cannot be written
    options: dict[str, str]
    light: tuple[str, ...] = ()  # names of the option, and of its parts for the display and for the content


CODECS = {
    "h264": _Codec("libx264", 17, 51, SPEEDS, "veryfast", 8, {8: "yuv420p"}, "444", {}),
    "hevc": _Codec(
        *("libx265", 19, 51, SPEEDS, "veryfast", 2, {8: "yuv420p", 10: "yuv420p10le", 12: "yuv420p12le"}, "444"),
        {"x265-params": "log-level=error:open-gop=0"},
        ("x265-params", "master-display", "max-cll"),
    ),
    "av1": _Codec(
        *("libsvtav1", 20, 63, tuple(map(str, range(14))), "6", 0, {8: "yuv420p", 10: "yuv420p10le"}, ""),
        {},
        ("svtav1-params", "mastering-display", "content-light"),
    ),
    # RGB, for archives, exact at every depth.
    "ffv1": _Codec(
        *("ffv1", None, 0, (), "", 0),
        {8: "bgr0", 10: "gbrp10le", 12: "gbrp12le", 14: "gbrp14le", 16: "gbrp16le"},
        "444",
        {"level": "3", "slicecrc": "1"},
    ),
    "prores": _Codec("prores_ks", None, 0, (), "", 0, {10: "yuv422p10le"}, "444", {"profile": "hq", "vendor": "apl0"}),
    # RGB as it is. decord reads it too, with equal pixels, and reads no FFV1 in RGB.
    "lossless": _Codec("libx264rgb", None, 0, SPEEDS, "veryfast", 8, {8: "rgb24"}, "444", {"qp": "0"}),
}


def codec_for(path: str | Path, codec: str = "auto", depth: int = 8) -> str:
    """The name in ``CODECS`` that ``codec`` stands for in a file named ``path`` with samples of ``depth`` bits."""
    if codec != "auto" and codec not in CODECS:
        raise VideoError(f"{codec} is no codec to write with, choose one of {', '.join(CODECS)} or auto")
    if codec != "auto":
        return codec
    return "av1" if Path(path).suffix.lower() == ".webm" else "h264" if depth == 8 else "hevc"


class VideoWriter:
    """Writes one clip, of the size of its first frame; to be used in a ``with`` statement.

    Args:
        path: a video file, whose suffix chooses the container, or a folder (no suffix, or a slash at the end), which
            then holds ``00000000.png``, ``00000001.png`` and so on, of 16 bits where ``signal`` has more than 8. An old
            file, or a folder of nothing but such frames, is replaced. A ``.nut`` is a part, for
            :func:`src.video.mux.join`: parts that are written with the same arguments fit together.
        fps: frames a second, kept exactly up to a denominator of 65536.
        codec: ``h264`` (8 bits), ``hevc``, ``av1``, ``prores`` (4:2:2), ``ffv1`` (RGB, exact at every depth, for
            archives), ``lossless`` (RGB H.264, 8 bits), or ``auto``: AV1 in .webm, else H.264 for 8 bits and HEVC for
            more. Folders ignore it.
        quality: constant rate factor, smaller is better: 0 to 51 (17 for H.264 and 19 for HEVC unless told), for AV1 0
            to 63 (20).
        audio_from: a file whose audio, subtitles, chapters and metadata are copied as they are, so that they stay with
            the picture: its first frame shown and the first frame written are taken for the same moment.
        metadata: what the container says of itself, ``{"title": ...}``; the attribute may be changed until the end.
        aspect: width of a pixel over its height.
        tick: the unit that ``time`` of :meth:`write` is rounded to, in seconds (one frame unless told).
        signal: what the values mean, and their depth.
        preset: how much time the encoder takes: ``ultrafast`` to ``placebo``, for AV1 ``0`` (slowest) to ``13``.
        source_size: ``(height, width)`` of the video that ``signal`` is from, None where there is none: of the size
            depends what players take an untagged picture for.
        gop: frames from one key frame to the next at most, none of which leans on a later one, so that few are decoded
            to get at any; None: the encoder's choice.

    Raises:
        VideoError: the container cannot hold the codec, or the folder holds something else.
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
        preset: str | None = None,
        source_size: tuple[int, int] | None = None,
        gop: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.fps = Fraction(fps).limit_denominator(1 << 16)  # containers keep both halves in 32 bits
        codec = codec_for(path, codec, signal.depth)
        self._name, self._codec = codec, CODECS[codec]
        if quality is not None and (self._codec.crf is None or not 0 <= quality <= self._codec.worst):
            raise VideoError(f"{codec} cannot be written at quality {quality}: {_range(self._codec)}")
        if preset is not None and preset not in self._codec.presets:
            choice = ", ".join(self._codec.presets) or "there is nothing to choose"
            raise VideoError(f"{codec} has no preset {preset}: {choice}")
        self._quality, self._preset, self._audio_from = quality, preset, audio_from
        self.metadata, self._aspect, self._gop = dict(metadata or {}), Fraction(aspect), gop
        self._tick = Fraction(tick) if tick else 1 / self.fps
        self._signal, self._source_size = signal, source_size
        self._folder = not self.path.suffix or str(path).endswith(("/", os.sep))
        self._is_part = self.path.suffix.lower() == ".nut"
        self._part = self.path.absolute().with_name(f".{self.path.stem}.{os.getpid()}.part{self.path.suffix}")
        if not self._folder and not self._is_part:
            self._part = self._part.with_suffix(".nut")
        # A video is encoded into a part of its own, so that there is one way from there to a file.
        self._output = Output(self.path if self._is_part else self._part, self._codec.encoder, self.path)
        self._video: Any = None
        self._convert = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._count = self._shift = self._packets = 0
        self._marks: list[int] = []  # when frames are shown, in ticks
        self._start = Fraction(0)

    def check(self, size: tuple[int, int] | None = None) -> None:
        """Finds out, as far as that goes beforehand, whether such a file can be written, of frames ``(height, width)``.

        Raises:
            VideoError: the container cannot hold the codec, the codec has no such size, or a folder holds other things.
        """
        if self._folder:
            check_folder(self.path)
        else:
            check(self.path, self._codec.encoder)
        if not self._folder and size and (size[0] % 2 or size[1] % 2) and not self._codec.odd:
            fit = ", ".join(name for name, other in CODECS.items() if other.odd)
            fit += f", in {self.path.stem}.mkv" if self.path.suffix.lower() == ".webm" else ""
            raise VideoError(f"{self._name} has no odd sizes such as {size[1]}x{size[0]}, choose one of {fit}")

    def __enter__(self) -> VideoWriter:
        self.check()
        if not self._folder:
            if self._audio_from:
                opened(self._audio_from).close()
            self._output.__enter__()
            return self
        try:
            self._part.mkdir(parents=True)
        except OSError as error:
            raise failed(self.path, error) from error
        if self._audio_from:
            log.warning("%s is a folder of images, which holds no sound: the audio is left out", self.path)
        return self

    def write(self, frame: torch.Tensor | np.ndarray, time: Fraction | None = None) -> None:
        """Add a frame, shown from ``time`` (seconds) on; unless told, at its number over ``fps``.

        Args:
            frame: ``(H, W, 3)``, uint8, or uint16 with values of ``signal.depth`` bits where that is more than 8; or
                as networks give it, ``(3, H, W)`` floating point, whose values are cut off at 0 and 1.
            time: later than that of the frame before.

        Raises:
            ValueError: not such a frame, not of the first one's size, or no later than the last.
            VideoError: the encoder or the disk does not take it.
        """
        if isinstance(frame, torch.Tensor) and frame.is_floating_point():
            frame = to_samples(frame, self._signal.depth)
        pixels = np.ascontiguousarray(frame.cpu().numpy() if isinstance(frame, torch.Tensor) else frame)
        kind = np.uint8 if self._signal.depth == 8 else np.uint16
        if pixels.dtype != kind or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"a frame is {np.dtype(kind)} (H, W, 3), got {pixels.dtype} {pixels.shape}")
        if self._size not in (None, pixels.shape[:2]):
            raise ValueError(f"frame {self._count} is {pixels.shape[:2]}, those before it are {self._size}")
        try:
            if self._folder:
                self._save(pixels, self._part / f"{self._count:08d}.png")
            else:
                self._encode(pixels, Fraction(self._count) / self.fps if time is None else Fraction(time))
        except (av.FFmpegError, OSError) as error:
            raise failed(self.path, error) from error
        self._size = pixels.shape[:2]
        self._count += 1

    def _save(self, pixels: np.ndarray, file: Path) -> None:
        if self._signal.depth == 8:
            Image.fromarray(pixels).save(file, compress_level=3)
            return
        if self._video is None:  # Pillow writes no colours of 16 bits
            self._video = video = av.CodecContext.create("png", "w")
            video.height, video.width, video.pix_fmt, video.time_base = *pixels.shape[:2], "rgb48be", 1 / self.fps
            video.options = {"compression_level": "3"}
        values = rescaled(pixels, self._signal.depth, 16)
        picture = av.VideoFrame.from_ndarray(values, "rgb48le").reformat(format="rgb48be")
        picture.pts = self._count
        file.write_bytes(b"".join(bytes(packet) for packet in self._video.encode(picture)))

    def _encode(self, pixels: np.ndarray, time: Fraction) -> None:
        mark = round(time / self._tick)
        if self._size is None:
            self._start, self._shift = mark * self._tick, min(0, mark)
            self._begin((pixels.shape[0], pixels.shape[1]))
        elif mark <= self._marks[-1]:
            raise ValueError(f"frame {self._count} at {float(time)} s is no later than the one before it")
        self._marks.append(mark)
        picture = from_rgb(pixels, self._video.pix_fmt, self._coded, self._convert)
        picture.pts, picture.time_base = mark - self._shift, self._tick
        self._mux(self._video.encode(picture))

    def _mux(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            # Any time will do that no frame is shown before: NUT keeps none, and x265 has none for a single frame.
            number = self._packets - (MOST_AHEAD if self._codec.encoder.startswith("libx26") else 0)
            packet.dts = self._marks[max(0, number)] - self._shift + min(0, number)
            self._output.container.mux_one(packet)
            self._packets += 1

    def _begin(self, size: tuple[int, int]) -> None:
        codec, signal, container = self._codec, self._signal, self._output.container
        depth = min(codec.pixels, key=lambda bits: (abs(bits - signal.depth), bits))
        if depth < signal.depth:
            log.warning("%s keeps %d of %d bits, as %s has no more", self.path, depth, signal.depth, self._name)
        pixels = codec.pixels[depth]
        if size[0] % 2 or size[1] % 2:
            self.check(size)
            pixels = pixels.replace("420", codec.odd).replace("422", codec.odd)
        self._coded = signal.settled(pixels, self._source_size)
        if codec.encoder == "prores_ks":  # which is always limited
            self._coded = replace(self._coded, range=1)
        if codec.encoder == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only, and there is no other way to say so
        self._video = video = container.add_stream(codec.encoder, rate=self.fps, options=self._options())
        video.height, video.width = size
        video.pix_fmt = pixels
        if codec.threads:
            video.codec_context.thread_type, video.codec_context.thread_count = ThreadType.FRAME, codec.threads
        said = self._coded.tags(size, self._source_size)
        self._output.describe(video, About(self.fps, self._aspect, said, self._shift), self._tick)

    def _options(self) -> dict[str, str]:
        codec, options = self._codec, dict(self._codec.options)
        if codec.crf is not None:
            options["crf"] = str(codec.crf if self._quality is None else self._quality)
        if self._gop is not None:
            options |= {"g": str(self._gop), "bf": "0"}
        if codec.encoder.startswith("libx264") and torch.backends.cpu.get_cpu_capability() == "AVX512":
            # Equal frames gave other bytes each time, with macroblock trees and rows whose number of blocks is no
            # multiple of 8; without its AVX-512 code x264 has not been seen to do so.
            options["x264-params"] = "asm=avx2"
        if codec.presets:
            options["preset"] = self._preset or codec.preset
        if codec.light:
            words = [options.get(codec.light[0], ""), *self._graded(codec.encoder == "libx265", *codec.light[1:])]
            options[codec.light[0]] = ":".join(filter(None, words))
        return options

    def _graded(self, whole: bool, display: str, content: str) -> Iterator[str]:
        """What the encoder is to say of the display and of the content; whole numbers are in units of HEVC's SEI."""
        *chroma, least, most = self._signal.mastering or (0, 0)
        if chroma:
            numbers = [round(n * 50000) if whole else float(n) for n in chroma]
            red, green, blue, white = (f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2], strict=True))
            dark, bright = (round(n * 10000) if whole else float(n) for n in (least, most))
            yield f"{display}=G{green}B{blue}R{red}WP{white}L({bright},{dark})"
        if self._signal.light:
            yield f"{content}={','.join(map(str, self._signal.light))}"

    def _origin(self) -> Fraction:
        """When the first frame of ``audio_from`` is shown."""
        try:
            return open_video(self._audio_from).times[0] if self._audio_from else Fraction(0)
        except VideoError:  # sound alone, or pictures that we cannot read: their clock is all there is
            return Fraction(0)

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None and not self._count:
                raise VideoError(f"{self.path} was not written, as there were no frames for it")
            if self._folder:
                if kind is None:
                    put_folder(self._part, self.path)
                return
            if kind is None:
                self._mux(self._video.encode(None))
            self._output.__exit__(kind, *exception)
            if kind is None and not self._is_part:
                origin = self._origin()
                source, words = self._audio_from, self.metadata
                join([self._part], self.path, source=source, start=self._start, origin=origin, metadata=words)
        except (av.FFmpegError, OSError) as error:
            raise failed(self.path, error) from error
        finally:
            if self._folder:
                shutil.rmtree(self._part, ignore_errors=True)
            else:
                self._output.abandon()
                self._part.unlink(missing_ok=True)


def write_video(path: str | Path, frames: Iterable[torch.Tensor | np.ndarray], fps: Fraction, **options: Any) -> None:
    """Writes all ``frames`` at a steady rate; ``options`` are those of :class:`VideoWriter`."""
    with VideoWriter(path, fps, **options) as writer:
        for frame in frames:
            writer.write(frame)


def _range(codec: _Codec) -> str:
    if codec.crf is not None:
        return f"it goes from 0 (best) to {codec.worst}"
    return "it has only one" if codec.encoder == "prores_ks" else "it is always exact"
