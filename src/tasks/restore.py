"""Restores a video file or folder of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.progress import track
from torch import nn

from src.config import build_network
from src.engine.memory import free
from src.engine.stream import stream
from src.errors import Problem
from src.nn.blocks import count_parameters
from src.papers.cascade import again
from src.video.reader import open_video
from src.video.writer import VideoWriter


def restore(config: DictConfig, directory: Path) -> None:
    """``task=restore``: ``input`` through ``checkpoint`` (or a baseline) to ``output``.

    Audio is carried along, and the frame rate is what the network makes of the input's; ``factor=8`` applies it to its
    own output until it is so many times the input's. ``show=offsets`` writes what
    the network takes for motion instead of what it restores.
    """
    source, output = Path(config.input), Path(config.output)
    if output.exists() and not config.overwrite:
        raise Problem(f"{output} exists already; choose another output, or add overwrite=true.")
    network = build_network(config)
    if config.show:
        network = _shown(network, config.show)
    network = again(network, config.factor)
    if not config.checkpoint and count_parameters(network, trainable=True):
        raise Problem("There are no trained weights to restore with: give checkpoint=<file>, or model=blend.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).float().eval()
    with open_video(source) as reader:
        geometry = network.geometry
        length = min(len(reader), config.max_frames or len(reader))
        count = len(geometry.output_times(length))  # type: ignore[union-attr, operator]
        fps = reader.fps / geometry.spacing  # type: ignore[union-attr, operator]
        frames = (frame.to(device).permute(2, 0, 1) / 255 for frame in reader.frames(stop=length))
        audio = source if source.is_file() else None
        passes: dict[str, Any] = {"length": length}
        if hasattr(network, "padding"):
            memory = int(config.memory * 2**30) if config.memory else free(device) // 2
            passes |= {"padding": config.padding, "memory": memory}
        with VideoWriter(
            output, fps, codec=config.codec, quality=config.quality, audio_from=audio, aspect=reader.aspect
        ) as writer:
            for _, frame in track(stream(network, frames, **passes), f"Restoring {source.name}", total=count):
                writer.write((frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu())
    print(f"{output}: {count} frames at {float(fps):.3f} frames per second")


def _shown(network: nn.Module, what: Any) -> nn.Module:
    """A network whose frames show something of how ``network`` works."""
    if what != "offsets":
        raise Problem(f"There is nothing to show={what}: give show=offsets, or leave it out to restore the video.")
    if not hasattr(network, "offset_pictures"):
        raise Problem("This network cannot show=offsets, which DSFN can; leave it out to restore the video.")
    return network.offset_pictures()  # type: ignore[operator]
