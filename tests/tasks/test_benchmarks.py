"""Benchmarks end to end: the subsets of Vimeo-90K, two stages in a row, time over whole clips; on tiny copies."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from src.bench.clips import time_clips
from src.checkpoints import cascade
from src.config.build import build_inference_network, build_restorer
from src.config.composition import compose
from src.data.degradation import to_clip
from src.data.evaluation import EvaluationClip
from src.data.splits import Clip
from src.engine.stream import stream
from src.metrics import psnr
from src.nn.video_network import VideoNetwork
from src.ops.resize import imresize
from tests.tasks.test_tasks import run

pytestmark = pytest.mark.long


def write_clip(folder: Path, seed: int, black: bool) -> None:
    folder.mkdir(parents=True)
    frames = np.random.default_rng(seed).integers(0, 50 + 20 * (seed % 7), (7, 24, 32, 3), dtype=np.uint8)
    for number, frame in enumerate(frames, 1):
        Image.fromarray(frame * (not black or number not in (3, 4))).save(folder / f"im{number}.png")


@pytest.fixture(scope="module")
def vimeo(tmp_path_factory) -> Path:
    """A copy of Vimeo-90K with its lists; a medium and a slow clip have two black frames in a row."""
    root = tmp_path_factory.mktemp("vimeo") / "vimeo_septuplet"
    lists = {
        "sep_trainlist": ["00001/0001", "00001/0002"],
        "fast_testset": ["00002/0001", "00002/0002"],
        "medium_testset": ["00003/0001", "00003/0002"],
        "slow_testset": ["00004/0001", "00004/0002"],
    }
    for name, keys in lists.items():
        (root / f"{name}.txt").parent.mkdir(exist_ok=True)
        (root / f"{name}.txt").write_text("\n".join(keys))
        for key in keys:
            write_clip(root / "sequences" / key, int(key.replace("/", "")), key in ("00003/0002", "00004/0001"))
    (root / "sep_testlist.txt").write_text("\n".join(sorted(key for keys in lists.values() for key in keys)))
    return root


def test_a_study_fills_the_columns_of_the_subsets(vimeo, tmp_path):
    """Zooming SlowMo, Table 2: the mean of each list, without clips of black frames."""
    options = [f"data.root={vimeo}", f"paths.runs={tmp_path}", "size=mini", "logger=csv"]
    run("ablation=zsm_vimeo90k", "experiment=blend_vimeo", *options)
    (file,) = tmp_path.rglob("results.json")
    results = json.loads(file.read_text())
    assert list(results["clips"]) == ["00002/0001", "00002/0002", "00003/0001", "00004/0002"]
    scores = {name: clip["psnr"] for name, clip in results["clips"].items()}
    assert {name: part["psnr"] for name, part in results["subsets"].items()} == {
        "fast": pytest.approx((scores["00002/0001"] + scores["00002/0002"]) / 2),
        "medium": pytest.approx(scores["00003/0001"]),
        "slow": pytest.approx(scores["00004/0002"]),
    }
    assert len({part["psnr"] for part in results["subsets"].values()}) == 3
    (table,) = tmp_path.rglob("table.json")
    (row,) = json.loads(table.read_text())["rows"]
    for subset in ("fast", "medium", "slow"):
        assert row[subset] == results["subsets"][subset]["psnr"]
        assert row[f"{subset} SSIM"] == results["subsets"][subset]["ssim"]


def test_a_baseline_before_trained_stages():
    """Blended frames, then EDVR on all of them: every output is EDVR's of the seven frames around it."""
    edvr = instantiate(compose("model=edvr_l", "size=mini", "model.network.frames=7").model.network).eval()
    config = compose("experiment=blend_edvr_vimeo", "size=mini", "test=vid4_zsm_3")
    config.model.network.stages = []
    first = instantiate(config.model.network.first)
    network = cascade([edvr], first=first)
    clip = torch.rand(4, 3, 8, 12)
    restored = list(stream(network, clip, instantiate(config.protocol)))
    assert [float(time) for time, _ in restored] == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    with torch.inference_mode():
        blended = first(clip[None])
        assert torch.allclose(blended[0, 1::2], (clip[:-1] + clip[1:]) / 2)
        torch.testing.assert_close(restored[3][1], edvr(blended)[0, 0])


def test_time_over_whole_clips(vimeo, monkeypatch):
    config = compose("model=blend", "data=vimeo90k", f"data.root={vimeo}", "protocol=vid4_zsm_3")
    network = build_inference_network(config)
    passes = []
    decode = VideoNetwork.decode_window
    monkeypatch.setattr(
        type(network), "decode_window", lambda self, clip: passes.append(clip.shape) or decode(self, clip)
    )
    measured = time_clips(config, network, torch.device("cpu"))
    assert measured["frames_of_clips"] == 4 * 7
    assert measured["seconds_per_frame_of_clips"] == pytest.approx(measured["seconds_all_clips"] / 28)
    assert 0 < measured["seconds_all_clips"] < 60
    assert passes == [(1, 2, 3, 6, 8)] * (3 + 4 * 3)  # windows of three outputs: to warm up, then of every clip


def test_time_of_clips_to_their_end(tmp_path):
    """City has an even number of frames: the pass for its last frame is timed, and that frame counted once."""
    for name, count in {"calendar": 7, "city": 8, "foliage": 7, "walk": 7}.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / name / f"{number}.png")
    for protocol, frames in (("vid4", 28), ("vid4_zsm_3", 29)):
        config = compose("task=bench", "model=blend", "data=vid4", f"data.root={tmp_path}", f"protocol={protocol}")
        measured = time_clips(config, build_inference_network(config), torch.device("cpu"))
        assert measured["frames_of_clips"] == frames


@pytest.mark.parametrize("count", [8, 7])
def test_the_last_frame_of_an_even_clip_is_scored_from_a_window_that_ends_there(tmp_path, count):
    """City of Vid4 has 34 frames: the published test of Zooming SlowMo restores the last from the frames 31 and 33."""
    rng = np.random.default_rng(1)
    for number in range(count):
        frame = rng.integers(0, 30 * (number + 1), (16, 16, 3), dtype=np.uint8)
        (tmp_path / "clip").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "clip" / f"{number}.png")
    config = compose("model=blend", "protocol=vid4_zsm_3")
    restorer = build_restorer(config, build_inference_network(config))
    clip = EvaluationClip(
        Clip("clip", tmp_path / "clip"),
        geometry=restorer.geometries[-1],
        degradation=instantiate(config.degradation),
    )
    restorer.evaluation_step(clip)
    frames = restorer.scores[-1].frames()[0]
    assert [float(frame.time) for frame in frames] == [k / 2 for k in range(count)]
    assert clip.frames == 4
    tail = clip.tail(2)
    if count == 7:
        assert tail is None
        return
    part, begin = tail
    assert begin == Fraction(5, 2)  # the source frames 5 and 7
    last = list(part.targets())[-1][1]
    small = list(part.inputs())[-1]
    with Image.open(tmp_path / "clip" / "7.png") as image:
        assert torch.equal(last, to_clip(torch.from_numpy(np.array(image))[None])[0])
    assert frames[-1].psnr == pytest.approx(psnr(imresize(small, 4)[None], last[None], luma=True).item())
