"""Textures for the sheets of the built-in scenes.

A texture is float32 (size, size, 3) in [0, 1] and tiles the plane, without a seam except for a page. All draws come
from the generator ``rng``. ``finish_texture`` converts one for a sheet, at two texels per pixel.
"""

from __future__ import annotations

import colorsys
import math
from statistics import NormalDist

import numpy as np

Array = np.ndarray
Rng = np.random.Generator


def draw_noise(rng: Rng, size: int, slope: float, longest: float = math.inf) -> Array:
    """Draw noise with an amplitude of frequency ** -slope (1 as in photographs), mean 0 and deviation 1."""
    spectrum = rng.standard_normal((size, size // 2 + 1, 2), dtype=np.float32).view(np.complex64)[..., 0]
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)).astype(np.float32)
    frequency[0, 0] = math.inf
    spectrum *= np.maximum(frequency, 1 / longest) ** -slope
    values = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    return values / values.std()


def draw_palette(rng: Rng) -> Array:
    """Draw six matching colours, dark to light: (6, 3)."""
    hue, spread = rng.random(), rng.choice([0.04, 0.1, 0.33, 0.5])
    hues = hue + spread * rng.choice([-1, 0, 0, 1], 6) + rng.normal(0, 0.02, 6)
    values = np.linspace(rng.uniform(0.08, 0.4), rng.uniform(0.5, 0.9), 6)
    saturations = (0.08 + 0.5 * rng.random() ** 2) * rng.uniform(0.5, 1.2, 6)
    return np.array(
        [colorsys.hsv_to_rgb(h % 1, min(s, 1), v) for h, s, v in zip(hues, saturations, values, strict=True)],
        np.float32,
    )


def tint(values: Array, colours: Array) -> Array:
    """Map values in [0, 1] to the colours of a palette, interpolated."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(values, stops, channel) for channel in colours.T], -1).astype(np.float32)


def paint(canvas: Array, colour: Array, cover: Array) -> None:
    """Paint a colour onto a canvas, in place."""
    canvas += cover[..., None] * (colour - canvas)


def draw_islands(rng: Rng, size: int, share: float, slope: float = 2.2) -> Array:
    """Draw the coverage of ragged islands over ``share`` of the plane, with shores one texel wide."""
    land = draw_noise(rng, size, slope, longest=size / 2.5) - np.float32(NormalDist().inv_cdf(1 - share))
    steepness = np.hypot(land - np.roll(land, 1, 0), land - np.roll(land, 1, 1)) + 1e-6
    return np.clip(land / steepness + 0.5, 0, 1)


def divide_into_cells(size: int, rows: int, columns: int, shift: float = 0.0) -> tuple[Array, Array, Array, Array]:
    """Return row and column of each texel's cell, and its offset (y, x) from the cell's centre in texels."""
    y = (np.arange(size, dtype=np.float32) + 0.5)[:, None] * (rows / size)
    row = y.astype(int)
    x = (np.arange(size, dtype=np.float32) + 0.5) * (columns / size) + shift * (row % 2)
    column = x.astype(int)
    return row, column % columns, (y - row - 0.5) * (size / rows), (x - column - 0.5) * (size / columns)


def cover_rectangle(y: Array, x: Array, half_height: float, half_width: float) -> Array:
    """Return the coverage of a rectangle about (0, 0)."""
    return np.clip(half_height - abs(y) + 0.5, 0, 1) * np.clip(half_width - abs(x) + 0.5, 0, 1)


def draw_ground(rng: Rng, size: int, colours: Array) -> Array:
    relief = draw_noise(rng, size, rng.uniform(1.0, 2.0), longest=size / 3)
    return tint(0.5 + relief * 0.22, colours)


def draw_weave(rng: Rng, size: int, colours: Array) -> Array:
    """Draw stripes or checkers, straight or wavy."""
    period = rng.uniform(10, 40)
    bend = rng.choice([0.0, 0.6]) * draw_noise(rng, size, 2.5, longest=size / 3)
    angle = rng.uniform(0, math.pi)
    along = np.arange(size, dtype=np.float32) / size
    bands = []
    for turned in (angle, angle + math.pi / 2):
        nx, ny = round(size / period * math.cos(turned)), round(size / period * math.sin(turned))
        phase = nx * along + ny * along[:, None] + bend
        texels = size / max(1.0, math.hypot(nx, ny))  # of one period
        bands.append(np.clip((0.25 - abs(phase % 1 - 0.5)) * texels + 0.5, 0, 1))
    a, b = bands
    cover = a if rng.random() < 0.5 else a * b + (1 - a) * (1 - b)
    dark, light = rng.choice(3), 3 + rng.choice(3)
    return colours[dark] + cover[..., None] * (colours[light] - colours[dark])


def draw_bricks(rng: Rng, size: int, colours: Array) -> Array:
    rows = 2 * max(1, round(size / rng.uniform(24, 56)))
    row, column, y, x = divide_into_cells(size, rows, max(2, round(rows / 2.2)), 0.5)
    stone = tint(np.clip(rng.normal(0.5, 0.15, (rows, rows)), 0, 1), colours)[row, column]
    canvas = np.tile(colours[rng.choice([0, 5])], (size, size, 1))
    paint(canvas, stone, cover_rectangle(y, x, size / rows / 2 - 1.3, size / max(2, round(rows / 2.2)) / 2 - 1.3))
    return canvas


def draw_facade(rng: Rng, size: int, colours: Array) -> Array:
    """Draw rows of windows, each with its own light, in frames with a mullion and a sill."""
    columns = max(2, round(size / rng.uniform(26, 70)))
    rows = max(2, round(columns * rng.uniform(0.6, 0.9)))
    row, column, y, x = divide_into_cells(size, rows, columns)
    h, w = size / rows * rng.uniform(0.28, 0.4), size / columns * rng.uniform(0.25, 0.4)
    canvas = np.tile(colours[rng.integers(1, 5)], (size, size, 1))
    paint(canvas, canvas * 0.75, cover_rectangle(y + size / rows / 2, x, 1.5, size))  # courses
    paint(canvas, colours[5], cover_rectangle(y, x, h + 2.5, w + 2.5))
    paint(canvas, colours[4] * 0.6, cover_rectangle(y - h - 4, x, 2, w + 5))
    light = rng.beta(0.6, 0.9, (rows, columns)).astype(np.float32)[row, column]
    paint(canvas, tint(np.clip(light * (0.75 - 0.25 * y / h), 0, 1), colours), cover_rectangle(y, x, h, w))
    paint(canvas, colours[5], np.maximum(cover_rectangle(y, x, h, 1), cover_rectangle(y + h / 3, x, 1, w)))
    return canvas


def draw_page(rng: Rng, size: int, colours: Array) -> Array:
    """Draw lines of words in a script of random strokes."""
    tall = int(rng.integers(14, 30))
    wide = round(tall * 0.7)
    y, x = np.mgrid[0:tall, 0:wide].astype(np.float32) + 0.5
    knots = np.array([(r, c) for r in (0.22, 0.5, 0.78) for c in (0.18, 0.5, 0.82)]) * (tall, wide)
    glyphs = np.zeros((25, tall, wide), np.float32)  # the first is the space
    for glyph in glyphs[1:]:
        for _ in range(rng.integers(2, 5)):
            (y0, x0), (y1, x1) = rng.permutation(knots)[:2]
            length = (y1 - y0) ** 2 + (x1 - x0) ** 2
            nearest = np.clip(((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / length, 0, 1)
            away = np.hypot(y - y0 - nearest * (y1 - y0), x - x0 - nearest * (x1 - x0))
            np.maximum(glyph, np.clip(tall / 14 + 0.5 - away, 0, 1), out=glyph)
    text = rng.integers(1, 25, (size // tall + 1, size // wide + 1))
    text *= rng.random(text.shape) > 0.18
    ink = glyphs[text].transpose(0, 2, 1, 3).reshape(len(text) * tall, -1)[:size, :size]
    dark, light = (1, 5) if rng.random() < 0.7 else (5, 1)
    return colours[light] + ink[..., None] * (colours[dark] - colours[light])


def draw_leaf(rng: Rng, reach: float, colours: Array) -> tuple[Array, Array]:
    """Draw the colour and coverage of one leaf, lit along its middle line."""
    y, x = np.mgrid[-reach - 1 : reach + 2, -reach - 1 : reach + 2].astype(np.float32)
    angle, slim = rng.uniform(0, 2 * math.pi), rng.uniform(0.25, 0.6)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    curve = (1 + slim * slim) / (2 * slim) * reach  # a leaf is the intersection of two circles
    inside = np.clip(curve - np.hypot(u, abs(v) + curve - slim * reach) + 0.5, 0, 1)[..., None]
    shade = np.clip(0.5 + 0.08 * v + 0.35 * u / reach, 0.15, 1.0)[..., None] * rng.uniform(0.55, 1.15)
    return np.concatenate([shade * colours[rng.integers(2, 6)], np.ones_like(shade)], -1), inside


def draw_leaves(rng: Rng, size: int, colours: Array, cover: float = 1.0) -> Array:
    """Draw overlapping leaves of many sizes on a transparent ground: (size, size, 4)."""
    most = min(36, size // 6)
    reaches = np.minimum(rng.uniform(4, 8) * rng.random(60) ** -0.7, most)  # few large ones, many small ones
    stamps = [draw_leaf(rng, round(reach), colours) for reach in reaches]
    edge = 2 * most + 3
    canvas = np.zeros((size + 2 * edge, size + 2 * edge, 4), np.float32)
    for _ in range(round(cover * size * size / (1.1 * np.mean(reaches**2)))):
        colour, inside = stamps[rng.integers(len(stamps))]
        (top, left), side = rng.integers(0, size, 2), len(colour)
        for y in (top, top + size)[: 1 + (top < edge)]:  # leaves cut off at one edge continue at the opposite one
            for x in (left, left + size)[: 1 + (left < edge)]:
                spot = canvas[y : y + side, x : x + side]
                spot += inside * (colour - spot)
    return canvas[edge : edge + size, edge : edge + size]


def draw_foliage(rng: Rng, size: int, colours: Array) -> Array:
    green = draw_leaves(rng, size, colours)
    return green[..., :3] + (1 - green[..., 3:]) * colours[0]


def finish_texture(rng: Rng, colour: Array, cover: Array | float = 1.0) -> Array:
    """Shade a texture unevenly, cut it out, and filter it by the pixel's aperture: (size, size, 4)."""
    size = len(colour)
    light = 1 + 0.16 * draw_noise(rng, size, 1.5, longest=size / 2)
    cover = np.broadcast_to(np.asarray(cover, np.float32), (size, size))[..., None]
    texture = np.concatenate([np.clip(colour * light[..., None], 0, 1) * cover, cover], -1)
    for axis in (0, 1):  # two boxes of one pixel's width, the second from bilinear sampling's midpoint
        texture = (np.roll(texture, 1, axis) + 2 * texture + np.roll(texture, -1, axis)) / 4
    return texture
