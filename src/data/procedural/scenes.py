"""The built-in high-speed scenes, for a machine with no data set.

A scene is a stack of textured sheets, the farthest first, under one hand-held camera. The position of a sheet is a
closed form of real time: a scene can be rendered at any moment, and its motion is known exactly. Textures are drawn
once, with two texels per pixel and prefiltered by the pixel's aperture, so that bilinear sampling is free of aliasing
at any position. Edges are coverage values, never steps.

All draws come from one seed (numpy's PCG64). The pixels are reproducible on one type of machine; another type may round
a few of them to the neighbouring grey value.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from src.atomic import atomic_write
from src.data.procedural.textures import (
    Array,
    Rng,
    cover_rectangle,
    divide_into_cells,
    draw_bricks,
    draw_facade,
    draw_foliage,
    draw_ground,
    draw_islands,
    draw_leaves,
    draw_page,
    draw_palette,
    draw_weave,
    finish_texture,
    paint,
)
from src.errors import UserError
from src.video.writer import VideoWriter

DENSITY = 2  # texels per pixel
TEMPO = 30.0  # frame rate of the speeds below, in pixels per frame; that of playback
TEXTURES = (  # of sheets; ground is the most frequent
    draw_ground,
    draw_ground,
    draw_weave,
    draw_bricks,
    draw_facade,
    draw_page,
    draw_foliage,
)
SPLITS = ("train", "val", "test")
VERSION = 1  # of the content of the scenes; folders of another version are refused

logger = logging.getLogger(__name__)


# --- Motion: closed forms of time in seconds ---


@dataclass(frozen=True)
class Curve:
    """``start + speed * t + sum(a * sin(2 pi (f * t + p)) for a, f, p in waves)``."""

    start: float = 0.0
    speed: float = 0.0
    waves: tuple[tuple[float, float, float], ...] = ()

    def __call__(self, t: float) -> float:
        swing = sum(a * math.sin(2 * math.pi * (f * t + p)) for a, f, p in self.waves)
        return self.start + self.speed * t + swing

    @property
    def swing(self) -> float:
        """Largest deflection by the waves."""
        return sum(abs(a) for a, _, _ in self.waves)


def affine_matrix(angle: float, scale: float, x: float, y: float) -> Array:
    """Return the 2x3 matrix that rotates and scales the picture's pixels, then moves them by (x, y)."""
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[c, s, x], [-s, c, y]])


@dataclass(frozen=True)
class Camera:
    """A panning, rotating, zooming camera. Zooms are logarithms, angles radians, positions pixels."""

    x: Curve
    y: Curve
    turn: Curve
    zoom: Curve

    def view(self, t: float, nearness: float = 1.0) -> Array:
        """Return the matrix from picture pixels to a plane; near planes move and grow more than far ones."""
        zoom = math.exp(-self.zoom(t) * nearness)
        return affine_matrix(self.turn(t), zoom, nearness * self.x(t), nearness * self.y(t))


@dataclass(frozen=True)
class Body:
    """An object that moves and rotates within a plane, seen by a camera.

    The plane repeats every ``room`` = (width, height) pixels, more than the camera sees at once. A body that leaves on
    one side returns on another, so a scene has no end.
    """

    camera: Camera
    nearness: float
    x: Curve
    y: Curve
    turn: Curve
    room: tuple[float, float]

    def __call__(self, t: float) -> Array:
        view = self.camera.view(t, self.nearness)
        for axis, (own, room) in enumerate(zip((self.x(t), self.y(t)), self.room, strict=True)):
            view[axis, 2] = (view[axis, 2] - own + room / 2) % room - room / 2
        return affine_matrix(self.turn(t), 1.0, 0.0, 0.0)[:, :2] @ view


# --- Sheets ---


class Sheet:
    """A textured plane or cut-out.

    Args:
        texture: float (h, w, 4), colour multiplied by coverage, then coverage, in [0, 1], ``DENSITY`` texels per pixel.
        motion: function from a time in seconds to the 2x3 matrix from picture pixels (x, y, 1), relative to the
            picture's centre, to sheet pixels, relative to the texture's centre.
        endless: repeat the texture without end; otherwise there is nothing beyond it.
    """

    def __init__(self, texture: Array, motion: Callable[[float], Array], endless: bool = False) -> None:
        self.height, self.width = texture.shape[:2]
        border = ((1, 1), (1, 1), (0, 0))  # for bilinear sampling beyond the outermost texel centres
        padded = np.pad(texture, border, mode="wrap" if endless else "constant")
        self.texture = torch.from_numpy(padded.astype(np.float32)).permute(2, 0, 1)[None].contiguous()
        self.motion = motion
        self.endless = endless

    def draw(self, picture: Array, t: float) -> None:
        """Blend the sheet at ``t`` seconds over ``picture``, float (3, H, W), in place."""
        height, width = picture.shape[1:]
        place = np.asarray(self.motion(t), dtype=np.float64)
        top, bottom, left, right = (0, height, 0, width) if self.endless else self._box(place, height, width)
        if top >= bottom or left >= right:
            return
        x = np.arange(left, right, dtype=np.float32) + (0.5 - width / 2)
        y = np.arange(top, bottom, dtype=np.float32)[:, None] + (0.5 - height / 2)
        grid = np.empty((1, bottom - top, right - left, 2), np.float32)
        for axis, size in enumerate((self.width, self.height)):
            ax, ay, offset = (float(v) for v in place[axis] * DENSITY)
            offset = (offset + size / 2) % size if self.endless else offset + size / 2
            texel = ax * x + (ay * y + offset)
            if self.endless:
                texel -= size * np.floor(texel * (1 / size))
            grid[0, ..., axis] = (texel + 1) * (2 / (size + 2)) - 1
        seen = F.grid_sample(self.texture, torch.from_numpy(grid), mode="bilinear", align_corners=False)[0].numpy()
        part = picture[:, top:bottom, left:right]
        part *= 1 - seen[3]
        part += seen[:3]

    def _box(self, place: Array, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, bottom, left and right of the pixels that the texture can cover."""
        w, h = self.width / DENSITY / 2 + 1, self.height / DENSITY / 2 + 1
        corners = np.array([[-w, w, -w, w], [-h, -h, h, h]]) - place[:, 2:]
        x, y = np.linalg.solve(place[:, :2], corners) + np.array([[width / 2], [height / 2]])
        top, left = max(0, math.floor(y.min())), max(0, math.floor(x.min()))
        return top, min(height, math.ceil(y.max())), left, min(width, math.ceil(x.max()))


@dataclass(frozen=True)
class Scene:
    """Sheets, the farthest first, in a picture of ``height`` x ``width`` pixels."""

    height: int
    width: int
    sheets: Sequence[Sheet]

    def frame(self, t: Fraction | float) -> torch.Tensor:
        """Render the picture at ``t`` seconds: float32 (H, W, 3) RGB in [0, 1]."""
        picture = np.zeros((3, self.height, self.width), np.float32)
        for sheet in self.sheets:
            sheet.draw(picture, float(t))
        return torch.from_numpy(picture.transpose(1, 2, 0).clip(0, 1))


# --- Scenes ---


def draw_waves(rng: Rng, speed: float, low: float, high: float) -> tuple[tuple[float, float, float], ...]:
    """Draw two waves with frequencies between ``low`` and ``high`` hertz and a joint peak speed of about ``speed``."""
    return tuple((speed / 2 / (2 * math.pi * f), f, rng.random()) for f in rng.uniform(low, high, 2))


def draw_camera(rng: Rng, pace: float) -> Camera:
    """Draw a hand-held camera that pans at about ``pace`` pixels per second, swings, rotates, zooms and shakes."""
    course, drift = rng.uniform(0, 2 * math.pi), pace * rng.uniform(0.2, 2.2)
    x, y = (
        Curve(
            rng.uniform(-1000, 1000),
            drift * along,
            draw_waves(rng, pace * rng.uniform(0.2, 1.5), 0.15, 0.8)
            + draw_waves(rng, TEMPO * rng.uniform(0, 0.6), 3, 9),
        )
        for along in (math.cos(course), 0.6 * math.sin(course))
    )
    turn = draw_waves(rng, rng.uniform(0, 0.3), 0.15, 0.5) + draw_waves(rng, rng.uniform(0, 0.03), 3, 9)
    return Camera(x, y, Curve(waves=turn), Curve(waves=draw_waves(rng, rng.uniform(0, 0.35), 0.15, 0.5)))


def draw_backdrop(rng: Rng, size: int, colours: Array) -> Array:
    """Draw one texture with islands of two others."""
    first, *others = rng.permutation(len(TEXTURES))[:3]
    canvas = TEXTURES[first](rng, size, colours)
    for other in others:
        paint(canvas, TEXTURES[other](rng, size, draw_palette(rng)), draw_islands(rng, size, rng.uniform(0.1, 0.35)))
    return finish_texture(rng, canvas)


def draw_screen(rng: Rng, size: int, share: float) -> Array:
    """Draw an occluder over about ``share`` of the plane: leaves, a fence, or islands of a texture."""
    colours, kind = draw_palette(rng), rng.random()
    if kind < 0.25:
        green = draw_leaves(rng, size, colours, share * 1.3)
        cover = green[..., 3]
        return finish_texture(rng, green[..., :3] / np.maximum(cover, 1e-6)[..., None], cover)
    colour = TEXTURES[rng.integers(len(TEXTURES))](rng, size, colours)
    if kind < 0.45:
        columns = max(2, round(size / rng.uniform(120, 400)))
        _, _, y, x = divide_into_cells(size, columns, columns)
        bar = share * size / columns / 4
        return finish_texture(
            rng, colour, np.maximum(cover_rectangle(y, 0 * x, bar, 1), cover_rectangle(0 * y, x, 1, bar))
        )
    return finish_texture(rng, colour, draw_islands(rng, size, share))


def draw_cutout(rng: Rng, size: int) -> Array:
    """Draw a textured disc, ring, wheel, star, polygon, blob or rectangle."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) - (size - 1) / 2
    r, angle, reach, corners = np.hypot(y, x), np.arctan2(y, x), size / 2 - 3, int(rng.integers(3, 9))
    sector = abs(angle % (2 * math.pi / corners) - math.pi / corners)  # 0 at the middle line of a corner or spoke
    kind = rng.integers(5)
    if kind == 0:  # disc or ring
        inside = np.minimum(reach - r, r - reach * rng.choice([-1.0, 0.6]))
    elif kind == 1:  # wheel
        inside = np.maximum(reach * 0.08 - r * np.sin(sector), 0.12 * reach - abs(r - 0.88 * reach))
        inside = np.minimum(inside, reach - r)
    elif kind == 2:  # polygon or star: the line from a corner to the notch between it and the next
        notch = reach * math.cos(math.pi / corners) * rng.choice([1.0, 0.55])
        edge = np.array([notch * math.cos(math.pi / corners) - reach, notch * math.sin(math.pi / corners)])
        px, py = r * np.cos(sector) - reach, r * np.sin(sector)
        inside = (edge[0] * py - edge[1] * px) / math.hypot(*edge)
    elif kind == 3:  # blob
        inside = reach * (0.82 + 0.17 * np.sin(corners // 2 * angle)) - r
    else:  # plate
        inside = np.minimum(reach * rng.uniform(0.3, 0.7) - abs(y), reach * 0.9 - abs(x))
    colour = TEXTURES[rng.integers(len(TEXTURES))](rng, size, draw_palette(rng))
    return finish_texture(rng, colour * np.clip(inside / 6, 0.35, 1)[..., None], np.clip(inside + 0.5, 0, 1))


def build_scene(seed: int, height: int, width: int) -> Scene:
    """Draw the scene of ``seed``, in pictures of ``height`` x ``width`` pixels.

    Between frames at 30 Hz most of it moves by 0 to 8 pixels at any picture size, and some by 16.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    size = min(2048, 64 * math.ceil(DENSITY * 1.2 * max(height, width) / 64))
    pace = TEMPO * rng.choice([1.6, 3.0, 4.8])
    camera, nearness = draw_camera(rng, pace), rng.uniform(0.35, 0.6)

    def draw_bodies(count: int) -> Iterator[Sheet]:
        for _ in range(count):
            radius = max(6.0, height * 0.05 * 5 ** rng.random())
            half, angle = np.array([width, height]) / 2, camera.turn.swing
            seen = (half + angle * half[::-1]) * math.exp(camera.zoom.swing * nearness) + radius * 1.5
            course, own = rng.uniform(0, 2 * math.pi), pace * rng.uniform(0.2, 3.0)
            x, y = (
                Curve(rng.uniform(0, 4000), own * along, draw_waves(rng, pace * rng.uniform(0, 1.5), 0.2, 1.2))
                for along in (math.cos(course), math.sin(course))
            )
            spin = Curve(rng.uniform(0, 6), rng.normal(0, 0.8), draw_waves(rng, rng.uniform(0, 1.0), 0.2, 1.0))
            motion = Body(camera, nearness, x, y, spin, (2 * seen[0], 2 * seen[1]))
            yield Sheet(draw_cutout(rng, 2 * round(DENSITY * radius)), motion)

    sheets = [Sheet(draw_backdrop(rng, size, draw_palette(rng)), partial(camera.view, nearness=nearness), endless=True)]
    for nearer, share, count in ((1.5, rng.uniform(0.2, 0.45), 6), (1.6, rng.uniform(0.05, 0.25), 6)):
        sheets += draw_bodies(count)
        nearness *= nearer
        if rng.random() < 0.7:
            sheets.append(Sheet(draw_screen(rng, size, share), partial(camera.view, nearness=nearness), endless=True))
    sheets += draw_bodies(1)
    return Scene(height, width, sheets)


# --- Files ---


def render_frames(seed: int, height: int, width: int, frames: int, fps: int = 240) -> Iterator[torch.Tensor]:
    """Yield the frames of scene ``seed`` at times k / fps: uint8 (H, W, 3) RGB."""
    scene = build_scene(seed, height, width)

    def frame(k: int) -> torch.Tensor:
        return torch.from_numpy(np.rint(scene.frame(Fraction(k, fps)).numpy() * 255).astype(np.uint8))

    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:  # one picture per core: too small to divide
        for start in range(0, frames, 4 * workers):
            yield from pool.map(frame, range(start, min(frames, start + 4 * workers)))


def derive_scene_seed(seed: int, split: str, index: int) -> int:
    """Return the seed of one scene, unique over all scenes of all data sets."""
    return (seed << 34) | (SPLITS.index(split) << 32) | index


def prepare(
    root: Path | str,
    train: int = 12,
    validate: int = 2,
    test: int = 4,
    height: int = 256,
    width: int = 384,
    frames: int = 240,
    fps: int = 240,
    seed: int = 0,
    log: Callable[[str], None] = logger.info,
) -> None:
    """Write the scenes ``root``/{train,val,test}/scene_0000.mp4 and so on, all different.

    A file appears when it is complete. An interrupted call is resumed; existing scenes are kept.

    Args:
        root: folder of the data set; ``procedural.json`` in it records these options.
        train, validate, test: number of scenes in each split.
        height, width: even numbers of pixels.
        log: called with a line about each scene before it is rendered.

    Raises:
        UserError: the folder holds other scenes, or videos of another origin.
    """
    root, counts = Path(root), dict(zip(SPLITS, (train, validate, test), strict=True))
    if height % 2 or width % 2 or min(height, width) < 16 or min(frames, fps) < 1 or min(seed, *counts.values()) < 0:
        raise UserError(
            f"Cannot render scenes of {height}x{width} pixels, {frames} frames, {fps} fps, seed {seed} and {counts}: "
            "sizes must be even and at least 16, frames and fps at least 1, seed and counts not negative."
        )
    options = dict(version=VERSION, **counts, height=height, width=width, frames=frames, fps=fps, seed=seed)
    record = root / "procedural.json"
    occupied = root.is_file() or any(root.glob("*/*"))  # before the record, since another process may write it now
    if not record.exists():
        if occupied:
            raise UserError(f"{root} holds other files than built-in scenes: set data.root to an empty folder.")
        with atomic_write(record) as stream:
            stream.write(json.dumps(options, indent=2) + "\n")
    try:
        recorded: dict[str, Any] = dict(json.loads(record.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{record} cannot be read: delete its folder to render the scenes again.") from error
    if recorded != options:
        names = [name for name in options | recorded if options.get(name) != recorded.get(name)]
        differences = ", ".join(f"{name} {recorded.get(name)} instead of {options.get(name)}" for name in names)
        raise UserError(f"{root} holds other built-in scenes ({differences}): delete it or set another data.root.")
    scenes = [(s, k, root / s / f"scene_{k:04d}.mp4") for s in SPLITS for k in range(counts[s])]
    for split, index, path in scenes:
        if path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        log(f"rendering {split} scene {index + 1} of {counts[split]}: {path}")
        # Constant rate factor 12 preserves the texture (38 dB on luma) at a tenth of the size of lossless. Coding
        # errors do no harm: the decoded frames are the ground truth.
        with VideoWriter(path, Fraction(fps), codec="h264", quality=12, preset="medium") as video:
            for picture in render_frames(derive_scene_seed(seed, split, index), height, width, frames, fps):
                video.write(picture)
