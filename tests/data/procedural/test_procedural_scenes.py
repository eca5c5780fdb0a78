"""The built-in scenes: motion is exact, and files are complete."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from src.data.procedural import scenes, textures
from src.data.procedural.scenes import (
    SPLITS,
    Body,
    Camera,
    Curve,
    Scene,
    Sheet,
    affine_matrix,
    build_scene,
    derive_scene_seed,
    prepare,
    render_frames,
)
from src.errors import UserError


def textured(size: int = 96, seed: int = 3) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(seed))
    colours = textures.draw_palette(rng)
    return textures.finish_texture(rng, textures.draw_ground(rng, size, colours))


def sliding(speed_x: float, speed_y: float, **kinds: bool) -> Scene:
    """One sheet whose content moves by (speed_x, speed_y) pixels per second."""
    return Scene(32, 48, [Sheet(textured(), lambda t: affine_matrix(0, 1, -speed_x * t, -speed_y * t), **kinds)])


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_a_seed_determines_a_scene() -> None:
    first, again, other = (torch.stack(list(render_frames(seed, 32, 48, 5))) for seed in (7, 7, 8))
    assert first.dtype == torch.uint8
    assert first.shape == (5, 32, 48, 3)
    assert torch.equal(first, again)
    assert (first.float() - other.float()).abs().mean() > 10


def test_seeds_are_unique() -> None:
    seeds = [derive_scene_seed(s, split, k) for s in (0, 1, 2) for split in SPLITS for k in range(50)]
    assert len(set(seeds)) == len(seeds)


def test_a_shift_by_whole_pixels_is_exact() -> None:
    scene = sliding(240.0, -480.0, endless=True)
    now, later = scene.frame(0), scene.frame(Fraction(3, 240))  # 3 pixels to the right, 6 up
    same(later[:-6, 3:], now[6:, :-3])
    assert (later - now).abs().mean() > 0.01


def test_a_shift_by_half_a_pixel_is_exact() -> None:
    """Bilinear sampling at the middle between two texels gives their mean, so such frames are exact, too."""
    texture = textured()
    scene = Scene(32, 48, [Sheet(texture, lambda t: affine_matrix(0, 1, t, 0), endless=True)])
    columns = (np.arange(48) - 24) * 2 + 48  # of the texel left of each pixel's centre
    rows = (np.arange(32) - 16) * 2 + 48
    for texels in (0, 1, 3):
        pair = texture[:, (columns + texels) % 96] + texture[:, (columns + texels + 1) % 96]
        expected = (pair[rows] + pair[rows + 1])[..., :3] / 4
        same(scene.frame(Fraction(texels, 2)), torch.from_numpy(expected))


def test_an_endless_sheet_repeats_and_a_cutout_ends() -> None:
    period = 96 / scenes.DENSITY
    endless, once = sliding(period, 0.0, endless=True), sliding(period, 0.0)
    same(endless.frame(1000), endless.frame(0))  # precise far from the start
    assert once.frame(0).min() > 0
    assert not once.frame(1).any()


def test_rotation_and_zoom() -> None:
    turned = Scene(48, 48, [Sheet(textured(), lambda t: affine_matrix(t, 1, 0, 0))])
    same(turned.frame(np.pi / 2), torch.rot90(turned.frame(0), -1, (0, 1)))
    grown = Scene(16, 16, [Sheet(np.ones((16, 16, 4)), lambda t: affine_matrix(0, 1 / t, 0, 0))])
    assert grown.frame(1).sum() == pytest.approx(3 * 8 * 8, rel=1e-3)  # 16 texels are 8 pixels
    assert grown.frame(1.5).sum() == pytest.approx(3 * 12 * 12, rel=0.03)


def test_edges_are_coverage() -> None:
    """A square's coverage sums to its area at any position, and grows in proportion as it slides over a pixel."""
    white = Sheet(np.ones((16, 16, 4)), lambda t: affine_matrix(0, 1, -t, 0))
    sums = [Scene(16, 16, [white]).frame(t)[..., 0].sum().item() for t in (0, 0.25, 0.5, 0.8)]
    assert sums == pytest.approx([64] * 4, rel=1e-3)
    edge = [Scene(16, 16, [white]).frame(t)[8, 12, 0].item() for t in (0.3, 0.5, 0.7)]
    assert edge == sorted(edge)
    assert 0 < edge[0] < 0.5 < edge[2] < 1


def test_near_sheets_occlude_and_move_more() -> None:
    still = Curve()
    camera = Camera(Curve(speed=8.0), still, still, still)
    far = Sheet(textured(), lambda t: camera.view(t, 0.5), endless=True)
    near = Sheet(np.ones((16, 16, 4)), Body(camera, 1.0, still, still, still, (400.0, 400.0)))
    scene = Scene(32, 64, [far, near])
    now, later = scene.frame(0), scene.frame(1)
    assert now[16, 32].min() == 1
    assert later[16, 24].min() == 1  # the body moved 8 pixels to the left ...
    same(later[:8, :-4], now[:8, 4:])  # ... and the plane behind it 4
    same(scene.frame(50), Scene(32, 64, [far, near]).frame(50))  # and after a period of 400 pixels it is back
    assert scene.frame(50)[16, 32].min() == 1


def test_motion_is_smooth() -> None:
    """A scene changes from one 30 Hz frame to the next, and much less to the next 240 Hz frame."""
    for seed in range(3):
        scene = build_scene(seed, 64, 96)
        now, soon, later = (scene.frame(Fraction(k, 240)) for k in (0, 1, 8))
        near, far = (soon - now).abs().mean(), (later - now).abs().mean()
        assert far > 0.005
        assert near < far / 2
        assert now.std() > 0.05


def test_files_are_complete_and_rendered_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, scenes.__name__)
    root = tmp_path / "scenes"
    arguments = dict(train=2, validate=1, test=1, height=32, width=48, frames=9, seed=5)
    prepare(root, **arguments)
    files = sorted(root.glob("*/*"))
    assert [str(f.relative_to(root)) for f in files] == [
        "test/scene_0000.mp4",
        "train/scene_0000.mp4",
        "train/scene_0001.mp4",
        "val/scene_0000.mp4",
    ]
    with av.open(str(files[2])) as video:
        stream = video.streams.video[0]
        assert stream.average_rate == 240
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(stream)])
    rendered = np.stack([frame.numpy() for frame in render_frames(derive_scene_seed(5, "train", 1), 32, 48, 9)])
    assert pictures.shape == rendered.shape
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs((pictures.astype(float) - rendered) @ luma).mean() < 3

    times = [f.stat().st_mtime_ns for f in files]
    caplog.clear()
    prepare(root, **arguments)
    assert [f.stat().st_mtime_ns for f in files] == times
    assert not caplog.messages
    with pytest.raises(UserError, match=r"seed 5 instead of 6") as refusal:
        prepare(root, **{**arguments, "seed": 6})
    assert "\n" not in str(refusal.value)


def test_an_interrupted_call_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, scenes.__name__)
    arguments = dict(train=2, validate=0, test=0, height=32, width=48, frames=9)
    whole = scenes.render_frames

    def interrupted(seed, *rest):  # type: ignore[no-untyped-def]
        for k, frame in enumerate(whole(seed, *rest)):
            if seed == derive_scene_seed(0, "train", 1) and k == 4:
                raise KeyboardInterrupt
            yield frame

    with monkeypatch.context() as patch:
        patch.setattr(scenes, "render_frames", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, **arguments)
    assert [f.name for f in tmp_path.glob("train/*.mp4")] == ["scene_0000.mp4"]
    caplog.clear()
    prepare(tmp_path, **arguments)
    assert len(caplog.messages) == 1
    assert sorted(f.name for f in tmp_path.glob("train/*")) == ["scene_0000.mp4", "scene_0001.mp4"]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(UserError, match="empty folder"):
        prepare(tmp_path, 1, 1, 1)
    (tmp_path / "procedural.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        prepare(tmp_path, 1, 1, 1)
    with pytest.raises(UserError, match="must be even"):
        prepare(tmp_path / "odd", 1, 1, 1, height=33)
    assert not (tmp_path / "odd").exists()
