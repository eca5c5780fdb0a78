"""Textures for the built-in scenes: what their sheets are covered with.

A texture is float32 (size, size, 3) in [0, 1] that tiles the plane; a page shows its edge, the others no seam. All of
it is drawn from the generator that is passed in. ``finish`` makes of one what a sheet takes, two texels a pixel.
"""

from __future__ import annotations

import colorsys
import math
from statistics import NormalDist

import numpy as np

Array = np.ndarray
Rng = np.random.Generator


def noise(rng: Rng, size: int, slope: float, longest: float = math.inf) -> Array:
    """Noise whose amplitude falls as frequency ** -slope (1 is what photographs have), of mean 0 and deviation 1."""
    spectrum = rng.standard_normal((size, size // 2 + 1, 2), dtype=np.float32).view(np.complex64)[..., 0]
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)).astype(np.float32)
    frequency[0, 0] = math.inf
    spectrum *= np.maximum(frequency, 1 / longest) ** -slope
    values = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    return values / values.std()


def palette(rng: Rng) -> Array:
    """Six colours that go together, dark to light: (6, 3)."""
    hue, spread = rng.random(), rng.choice([0.04, 0.1, 0.33, 0.5])
    hues = hue + spread * rng.choice([-1, 0, 0, 1], 6) + rng.normal(0, 0.02, 6)
    values = np.linspace(rng.uniform(0.08, 0.4), rng.uniform(0.5, 0.9), 6)
    saturations = (0.08 + 0.5 * rng.random() ** 2) * rng.uniform(0.5, 1.2, 6)
    return np.array(
        [colorsys.hsv_to_rgb(h % 1, min(s, 1), v) for h, s, v in zip(hues, saturations, values, strict=True)],
        np.float32,
    )


def tint(values: Array, colours: Array) -> Array:
    """Values in [0, 1] as colours of a palette, blended between neighbours."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(values, stops, channel) for channel in colours.T], -1).astype(np.float32)


def over(canvas: Array, colour: Array, cover: Array) -> None:
    """Paints a colour onto a canvas, in place."""
    canvas += cover[..., None] * (colour - canvas)


def region(rng: Rng, size: int, share: float, slope: float = 2.2) -> Array:
    """Coverage of ragged islands that take ``share`` of the plane, their shores one texel wide."""
    land = noise(rng, size, slope, longest=size / 2.5) - np.float32(NormalDist().inv_cdf(1 - share))
    steepness = np.hypot(land - np.roll(land, 1, 0), land - np.roll(land, 1, 1)) + 1e-6
    return np.clip(land / steepness + 0.5, 0, 1)


def cells(size: int, rows: int, columns: int, shift: float = 0.0) -> tuple[Array, Array, Array, Array]:
    """Row and column of the cell that each texel is in, and its way (y, x) from the cell's centre in texels."""
    y = (np.arange(size, dtype=np.float32) + 0.5)[:, None] * (rows / size)
    row = y.astype(int)
    x = (np.arange(size, dtype=np.float32) + 0.5) * (columns / size) + shift * (row % 2)
    column = x.astype(int)
    return row, column % columns, (y - row - 0.5) * (size / rows), (x - column - 0.5) * (size / columns)


def plate(y: Array, x: Array, half_height: float, half_width: float) -> Array:
    """Coverage of a rectangle about (0, 0)."""
    return np.clip(half_height - abs(y) + 0.5, 0, 1) * np.clip(half_width - abs(x) + 0.5, 0, 1)


def ground(rng: Rng, size: int, colours: Array) -> Array:
    relief = noise(rng, size, rng.uniform(1.0, 2.0), longest=size / 3)
    return tint(0.5 + relief * 0.22, colours)


def weave(rng: Rng, size: int, colours: Array) -> Array:
    """Stripes or checkers, straight or wavy."""
    period = rng.uniform(10, 40)
    bend = rng.choice([0.0, 0.6]) * noise(rng, size, 2.5, longest=size / 3)
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


def bricks(rng: Rng, size: int, colours: Array) -> Array:
    rows = 2 * max(1, round(size / rng.uniform(24, 56)))
    row, column, y, x = cells(size, rows, max(2, round(rows / 2.2)), 0.5)
    stone = tint(np.clip(rng.normal(0.5, 0.15, (rows, rows)), 0, 1), colours)[row, column]
    canvas = np.tile(colours[rng.choice([0, 5])], (size, size, 1))
    over(canvas, stone, plate(y, x, size / rows / 2 - 1.3, size / max(2, round(rows / 2.2)) / 2 - 1.3))
    return canvas


def facade(rng: Rng, size: int, colours: Array) -> Array:
    """Rows of windows, each with its own light, in frames with a mullion and a sill."""
    columns = max(2, round(size / rng.uniform(26, 70)))
    rows = max(2, round(columns * rng.uniform(0.6, 0.9)))
    row, column, y, x = cells(size, rows, columns)
    h, w = size / rows * rng.uniform(0.28, 0.4), size / columns * rng.uniform(0.25, 0.4)
    canvas = np.tile(colours[rng.integers(1, 5)], (size, size, 1))
    over(canvas, canvas * 0.75, plate(y + size / rows / 2, x, 1.5, size))  # courses
    over(canvas, colours[5], plate(y, x, h + 2.5, w + 2.5))
    over(canvas, colours[4] * 0.6, plate(y - h - 4, x, 2, w + 5))
    light = rng.beta(0.6, 0.9, (rows, columns)).astype(np.float32)[row, column]
    over(canvas, tint(np.clip(light * (0.75 - 0.25 * y / h), 0, 1), colours), plate(y, x, h, w))
    over(canvas, colours[5], np.maximum(plate(y, x, h, 1), plate(y + h / 3, x, 1, w)))
    return canvas


def page(rng: Rng, size: int, colours: Array) -> Array:
    """Lines of words in a script of random strokes."""
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


def leaf(rng: Rng, reach: float, colours: Array) -> tuple[Array, Array]:
    """Colour and coverage of one leaf, lit along its middle line."""
    y, x = np.mgrid[-reach - 1 : reach + 2, -reach - 1 : reach + 2].astype(np.float32)
    angle, slim = rng.uniform(0, 2 * math.pi), rng.uniform(0.25, 0.6)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    curve = (1 + slim * slim) / (2 * slim) * reach  # a leaf is where two circles meet
    inside = np.clip(curve - np.hypot(u, abs(v) + curve - slim * reach) + 0.5, 0, 1)[..., None]
    shade = np.clip(0.5 + 0.08 * v + 0.35 * u / reach, 0.15, 1.0)[..., None] * rng.uniform(0.55, 1.15)
    return np.concatenate([shade * colours[rng.integers(2, 6)], np.ones_like(shade)], -1), inside


def leaves(rng: Rng, size: int, colours: Array, cover: float = 1.0) -> Array:
    """Leaves of many sizes that hide one another, on nothing: (size, size, 4)."""
    most = min(36, size // 6)
    reaches = np.minimum(rng.uniform(4, 8) * rng.random(60) ** -0.7, most)  # few large ones, many small ones
    stamps = [leaf(rng, round(reach), colours) for reach in reaches]
    edge = 2 * most + 3
    canvas = np.zeros((size + 2 * edge, size + 2 * edge, 4), np.float32)
    for _ in range(round(cover * size * size / (1.1 * np.mean(reaches**2)))):
        colour, inside = stamps[rng.integers(len(stamps))]
        (top, left), side = rng.integers(0, size, 2), len(colour)
        for y in (top, top + size)[: 1 + (top < edge)]:  # what is cut off at one end goes on at the other
            for x in (left, left + size)[: 1 + (left < edge)]:
                spot = canvas[y : y + side, x : x + side]
                spot += inside * (colour - spot)
    return canvas[edge : edge + size, edge : edge + size]


def foliage(rng: Rng, size: int, colours: Array) -> Array:
    green = leaves(rng, size, colours)
    return green[..., :3] + (1 - green[..., 3:]) * colours[0]


def finish(rng: Rng, colour: Array, cover: Array | float = 1.0) -> Array:
    """Lights and wears a texture, cuts it out, and lets the pixel's aperture over it: (size, size, 4)."""
    size = len(colour)
    light = 1 + 0.16 * noise(rng, size, 1.5, longest=size / 2)
    cover = np.broadcast_to(np.asarray(cover, np.float32), (size, size))[..., None]
    texture = np.concatenate([np.clip(colour * light[..., None], 0, 1) * cover, cover], -1)
    for axis in (0, 1):  # two boxes of one pixel's width, the second from bilinear sampling's midpoint
        texture = (np.roll(texture, 1, axis) + 2 * texture + np.roll(texture, -1, axis)) / 4
    return texture
