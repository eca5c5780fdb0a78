"""Frames into video files and folders of images, with the sound of the video that they were made from.

What is written is tagged as what it is (BT.709, limited range) and was converted with that matrix. A file appears
under its name only when it is whole.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from PIL import Image

from src.errors import VideoError
from src.video.reader import open_video

log = logging.getLogger(__name__)


class _Codec(NamedTuple):
    encoder: str
    crf: int | None  # constant quality where nothing is asked for, smaller is better; None: always exact
    pixels: str
    odd: str  # pixels for an odd height or width, of which 4:2:0 has no half
    options: dict[str, str]


CODECS = {
    "h264": _Codec("libx264", 17, "yuv420p", "yuv444p", {}),
    "hevc": _Codec("libx265", 19, "yuv420p", "yuv444p", {"x265-params": "log-level=error:open-gop=0"}),
    # RGB as it is. decord reads it too, with equal pixels, and reads no FFV1 in RGB.
    "lossless": _Codec("libx264rgb", None, "rgb24", "rgb24", {"qp": "0", "preset": "veryfast"}),
    "ffv1": _Codec("ffv1", None, "bgr0", "bgr0", {"level": "3", "slicecrc": "1"}),
}
CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv")
# Rounds each of Y, Cb and Cr to the nearest, and takes chroma from every pixel rather than from every other.
ACCURATE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


class VideoWriter:
    """Writes one clip, of the size of its first frame; to be used in a ``with`` statement.

    Args:
        path: a video file, whose suffix chooses the container, or a folder (no suffix, or a slash at the end), which
            then holds ``00000000.png``, ``00000001.png`` and so on. An old file is replaced, a full folder refused.
        fps: frames a second, kept exactly up to a denominator of 65536.
        codec: ``h264``, ``hevc``, ``lossless`` (RGB H.264) or ``ffv1`` (RGB, for archives); folders ignore it.
        quality: constant rate factor, 0 to 51, smaller is better (17 for H.264 and 19 for HEVC unless told).
        audio_from: a file whose audio is copied as it is, so that it stays with the picture: its first frame shown
            and the first frame written are taken for the same moment.
        metadata: what the container says of itself, ``{"title": ...}``.
        aspect: width of a pixel over its height.
        tick: the unit that ``time`` of :meth:`write` is rounded to, in seconds (one frame unless told).

    Raises:
        VideoError: the container cannot hold the codec, or the folder is not empty.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction,
        codec: str = "h264",
        quality: int | None = None,
        audio_from: Path | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        aspect: Fraction = Fraction(1),
        tick: Fraction | None = None,
    ) -> None:
        self.path = Path(path)
        self.fps = Fraction(fps).limit_denominator(1 << 16)  # containers keep both halves in 32 bits
        if codec not in CODECS:
            raise VideoError(f"{codec} is no codec to write with, choose one of {', '.join(CODECS)}")
        self._codec = CODECS[codec]
        if quality is not None and (self._codec.crf is None or not 0 <= quality <= 51):
            raise VideoError(f"{codec} cannot be written at quality {quality}: {_range(self._codec)}")
        self._quality, self._audio_from, self._aspect = quality, audio_from, Fraction(aspect)
        self._metadata, self._tick = dict(metadata or {}), Fraction(tick) if tick else 1 / self.fps
        self._folder = not self.path.suffix or str(path).endswith(("/", os.sep))
        self._part = self.path.absolute().with_name(f".{self.path.stem}.{os.getpid()}.part{self.path.suffix}")
        self._container: Any = None
        self._video: Any = None
        self._sound: Iterator[av.Packet] = iter(())
        self._size: tuple[int, int] | None = None
        self._count = self._mark = 0

    def __enter__(self) -> VideoWriter:
        if not self._folder and self.path.suffix.lower() not in CONTAINERS:
            raise VideoError(f"{self.path} cannot be written, as a video is written to {', '.join(CONTAINERS)}")
        if not self._folder and self.path.is_dir():
            raise VideoError(f"{self.path} is a folder, name a file to write the video to")
        if self._folder and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise VideoError(f"{self.path} is not empty, name another folder to write frames to")
        try:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            if self._folder:
                self._part.mkdir()
            else:
                self._container = av.open(str(self._part), "w")  # makes no file before the first packet
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from error
        if self._folder and self._audio_from:
            log.warning("%s is a folder of images, which holds no sound: the audio is left out", self.path)
        if not self._folder and self._codec.encoder not in self._container.supported_codecs:
            raise VideoError(f"{self.path} cannot hold {self._codec.encoder}, write {self.path.stem}.mkv instead")
        return self

    def write(self, frame: torch.Tensor | np.ndarray, time: Fraction | None = None) -> None:
        """Add a frame, uint8 ``(H, W, 3)``, shown from ``time`` (seconds) on; unless told, at its number over ``fps``.

        Raises:
            ValueError: not such a frame, not of the first one's size, or no later than the last.
            VideoError: the encoder or the disk does not take it.
        """
        pixels = np.ascontiguousarray(frame.cpu().numpy() if isinstance(frame, torch.Tensor) else frame)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"a frame is uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
        if self._size not in (None, pixels.shape[:2]):
            raise ValueError(f"frame {self._count} is {pixels.shape[:2]}, those before it are {self._size}")
        try:
            if self._folder:
                Image.fromarray(pixels).save(self._part / f"{self._count:08d}.png", compress_level=3)
            else:
                self._encode(pixels, Fraction(self._count) / self.fps if time is None else Fraction(time))
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from error
        self._size = pixels.shape[:2]
        self._count += 1

    def _encode(self, pixels: np.ndarray, time: Fraction) -> None:
        mark = round(time / self._tick)
        if self._size is None:
            self._start(pixels.shape[0], pixels.shape[1], mark * self._tick)
        elif mark <= self._mark:
            raise ValueError(f"frame {self._count} at {float(time)} s is no later than the one before it")
        self._mark = mark
        picture = av.VideoFrame.from_ndarray(pixels, "rgb24")
        if self._yuv:
            picture = self._convert.reformat(
                picture,
                format=self._video.pix_fmt,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=ACCURATE,
            )
        picture.pts, picture.time_base = mark, self._tick
        self._container.mux(self._video.encode(picture))
        self._feed(until=time)

    def _start(self, height: int, width: int, time: Fraction) -> None:
        codec, container = self._codec, self._container
        options = dict(codec.options)
        if codec.crf is not None:
            options["crf"] = str(codec.crf if self._quality is None else self._quality)
        video = container.add_stream(codec.encoder, rate=self.fps, options=options)
        video.height, video.width = height, width
        video.pix_fmt = codec.odd if height % 2 or width % 2 else codec.pixels
        self._yuv, self._convert = video.pix_fmt.startswith("yuv"), VideoReformatter()
        context = video.codec_context
        context.time_base, context.sample_aspect_ratio = self._tick, self._aspect
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        if self._yuv:
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        if codec.encoder == "libx265" and container.format.name in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # the only kind of HEVC that Apple's players open
        container.metadata.update(self._metadata)
        self._video = video
        if self._audio_from:
            self._sound = self._copied(self._audio_from, time)
        self._ahead = next(self._sound, None)

    def _copied(self, source: Path, time: Fraction) -> Iterator[av.Packet]:
        """Packets of the audio of ``source``, moved so that its first frame lies at ``time``; adds their streams."""
        try:
            shift = time - open_video(source).times[0]
        except VideoError:  # sound alone, or pictures that we cannot read: their clock is all there is
            shift = time
        try:
            container = av.open(os.path.abspath(source))
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{source} cannot be opened to copy its audio: {error.strerror}") from error
        with container:
            streams: dict[int, Any] = {}
            for stream in container.streams.audio:
                name = stream.codec_context.name if stream.codec_context else "of an unknown codec"
                try:
                    streams[stream.index] = self._container.add_stream_from_template(stream)
                    streams[stream.index].metadata.update(stream.metadata)
                except (ValueError, av.FFmpegError):
                    log.warning("%s cannot hold the audio of %s (%s): it is left out", self.path, source, name)
            for packet in container.demux([container.streams[index] for index in streams]) if streams else ():
                if packet.size:
                    moved = round(shift / packet.time_base)
                    packet.pts = None if packet.pts is None else packet.pts + moved
                    packet.dts = None if packet.dts is None else packet.dts + moved
                    packet.stream = streams[packet.stream_index]
                    yield packet

    def _feed(self, until: Fraction | None = None) -> None:
        """Write the audio up to a time, or all that is left: in step with the picture, so that little is held back."""
        while (packet := self._ahead) is not None:
            at = packet.dts if packet.dts is not None else packet.pts
            if until is not None and at is not None and at * packet.time_base > until:
                break
            self._container.mux_one(packet)
            self._ahead = next(self._sound, None)

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None:
                self._finish()
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from error
        finally:
            self._abandon()

    def _finish(self) -> None:
        if not self._count:
            raise VideoError(f"{self.path} was not written, as there were no frames for it")
        if not self._folder:
            self._container.mux(self._video.encode(None))
            self._feed()
            self._container.close()
        elif self.path.exists():
            self.path.rmdir()  # it is empty
        os.replace(self._part, self.path)

    def _failed(self, error: Exception) -> VideoError:
        return VideoError(f"{self.path} cannot be written: {getattr(error, 'strerror', None) or error}")

    def _abandon(self) -> None:
        """Remove what is not whole."""
        if self._folder:
            shutil.rmtree(self._part, ignore_errors=True)
            return
        self._sound = iter(())  # closes the source
        try:
            self._container.close()
        except (av.FFmpegError, ValueError) as error:
            log.debug("%s was left: %s", self._part, error)
        self._part.unlink(missing_ok=True)


def _range(codec: _Codec) -> str:
    return "it is always exact" if codec.crf is None else "it goes from 0 (best) to 51"
