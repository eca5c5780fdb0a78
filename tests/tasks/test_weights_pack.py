"""Packing: averaged weights in few bytes, a card whose figures are measured, the same bytes every time."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from src.checkpoints import load, read_contents
from src.config.composition import compose
from src.data.layouts.folder import folder
from src.errors import CheckpointError, UserError
from src.tasks.weights_pack import PackOptions, _list_clips, pack
from tests.conftest import golden_network
from tests.tasks.test_tasks import TINY, clips, run  # noqa: F401 - the fixture

pytestmark = pytest.mark.long
CREDITS = "left: {source: built here, licence: CC0-1.0, credit: nobody}\n"


@pytest.fixture(scope="module")
def data(clips, tmp_path_factory) -> Path:  # noqa: F811
    root = tmp_path_factory.mktemp("data") / "clips"
    shutil.copytree(clips, root)
    (root / "credits.yaml").write_text(CREDITS)
    return root


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory) -> Path:
    """The last checkpoint of a short training."""
    runs = tmp_path_factory.mktemp("runs")
    options = [*TINY, f"data.root={data}", "trainer.max_steps=3", "callbacks.average.decay=0.5", f"paths.runs={runs}"]
    run("experiment=wdvr_reds_sr_clean", "data.test_frames=4", "protocol.edges=replicate", *options)
    (last,) = runs.rglob("last.ckpt")
    return last


def packed(checkpoint: Path, output: Path, **options: Any) -> Path:
    pack(compose("task=evaluate"), output.parent, PackOptions(pack=str(checkpoint), output=str(output), **options))
    return output


@pytest.fixture(scope="module")
def small(checkpoint, tmp_path_factory) -> Path:
    return packed(checkpoint, tmp_path_factory.mktemp("small") / "small.safetensors", limits="Rain.", licence="CC0-1.0")


def test_the_averaged_weights_are_rounded_and_load(checkpoint, small):
    saved = torch.load(checkpoint, weights_only=True)
    assert any(not torch.equal(saved["state_dict"][n], t) for n, t in saved["current_model_state"].items())
    stored = read_contents(small)["state_dict"]
    for name, tensor in saved["state_dict"].items():
        assert torch.equal(stored[name], tensor.half())
    assert small.stat().st_size < 0.6 * sum(tensor.nbytes for tensor in stored.values()) * 2 + 5000
    for name, tensor in load(small).state_dict().items():
        assert torch.equal(tensor, stored[f"network.{name}"].float())


def test_packing_twice_gives_the_same_bytes(checkpoint, small, tmp_path):
    again = packed(checkpoint, tmp_path / "small.safetensors", limits="Rain.", licence="CC0-1.0")
    for suffix in (".safetensors", ".md", ".jpg"):
        assert again.with_suffix(suffix).read_bytes() == small.with_suffix(suffix).read_bytes()


def test_the_figures_of_the_card_are_those_of_the_evaluation(checkpoint, data, small, tmp_path):
    options = [*TINY, f"data.root={data}", "data.test_frames=4", f"paths.runs={tmp_path}"]
    card = read_contents(small)["card"]
    (line,) = card["scores"]
    for name, source in (("", [f"checkpoint={small}"]), ("_baseline", ["model=bicubic"])):
        run("task=evaluate", "protocol.edges=replicate", *source, *options, f"seed={len(name)}")
        (file,) = tmp_path.rglob(f"seed={len(name)}/results.json")
        summary = json.loads(file.read_text())["summary"]
        assert line[f"psnr{name}"] == pytest.approx(summary["psnr"], abs=6e-5)
        assert line[f"ssim{name}"] == pytest.approx(summary["ssim"], abs=6e-5)
        assert f"{summary['psnr']:.2f} / {summary['ssim']:.4f}" in small.with_suffix(".md").read_text()
    assert card["baseline"] == "bicubic"


def test_the_card_tells_the_recipe_the_data_and_the_limits(checkpoint, data, small):
    text, card = small.with_suffix(".md").read_text(), read_contents(small)["card"]
    assert "experiment=wdvr_reds_sr_clean data.test_frames=4" in card["recipe"]
    assert "data.root=<clips>" in card["recipe"]
    assert card["recipe"] in text
    for left_out in ("paths.runs", "logger=", str(data.parent), str(checkpoint.parents[3])):
        assert left_out not in text + json.dumps(card)
    assert (card["name"], card["steps"], card["licence"]) == ("small", 3, "CC0-1.0")
    assert card["commit"] == (checkpoint.parents[1] / "commit.txt").read_text().strip()
    assert card["commit"] in text
    assert card["credits"] == {"left": "nobody", "right": "licence not stated"}
    assert "| left | training, validation, test | built here | CC0-1.0 | nobody |" in text
    assert "| right | training, validation, test |  | licence not stated |  |" in text
    assert "Rain." in text
    assert "4 times the height and width, the same number of frames; 5 frames in and 1 frame out" in text
    parameters = sum(parameter.numel() for parameter in load(small).parameters())
    assert f"{parameters:,} parameters, stored as float16 (rounding costs " in text
    batch = OmegaConf.load(checkpoint.parents[1] / "config.yaml").data.batch_size
    assert re.search(rf"- 3 steps of {batch} crops of 32 pixels, \d\.\d minutes without validation\n", text)
    with (checkpoint.parents[1] / "metrics.csv").open() as file:
        seconds = [float(row["train/seconds_per_step"] or "nan") for row in csv.DictReader(file)]
    measured = [value for value in seconds if value == value]
    assert card["hours"] == pytest.approx(3 * sum(measured) / len(measured) / 3600, abs=6e-5)
    gains = [float(gain) for gain in re.findall(r"\| ([+-]\d+\.\d\d) dB \|$", text, re.MULTILINE)][1:]
    assert gains == sorted(gains)
    with Image.open(small.with_suffix(".jpg")) as picture:
        assert picture.size == (3 * 48 + 8, 48)
    assert small.with_suffix(".jpg").stat().st_size < 100_000


def test_the_picture_shows_the_clip_that_is_named(checkpoint, small, tmp_path):
    cards = {
        name: packed(checkpoint, tmp_path / f"{name}.safetensors", half=True, picture=name)
        for name in ("left", "right")
    }
    pictures = {name: path.with_suffix(".jpg").read_bytes() for name, path in cards.items()}
    assert pictures["left"] != pictures["right"]
    assert small.with_suffix(".jpg").read_bytes() in pictures.values()
    assert "A test clip, left, at time" in cards["left"].with_suffix(".md").read_text()
    assert "The test clip of median gain, " in small.with_suffix(".md").read_text()
    with pytest.raises(UserError, match="picture=up: choose one of left, right"):
        packed(checkpoint, tmp_path / "up.safetensors", half=True, picture="up")


def test_one_device_measures(checkpoint, tmp_path):
    config = compose("task=evaluate", "trainer.accelerator=cpu", "trainer.devices=2")
    options = PackOptions(pack=str(checkpoint), output=str(tmp_path / "a.safetensors"))
    with pytest.raises(UserError, match=r"^Packing measures on one device, not on 2: add trainer\.devices=1\.$"):
        pack(config, tmp_path, options)


def test_weights_that_rounding_harms_stay_in_float32(checkpoint, tmp_path, capsys):
    """Normalised kernels may have any length: so small a one vanishes in float16."""
    directory = shutil.copytree(checkpoint.parents[1], tmp_path / "run")
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["network.skip.parametrizations.weight.original1"] *= 1e-7
    content["state_dict"]["network.head.parametrizations.weight.original1"] *= 1e8  # beyond float16, and kept
    torch.save(content, directory / "checkpoints" / "last.ckpt")
    output = packed(directory / "checkpoints" / "last.ckpt", tmp_path / "fine.safetensors")
    log = capsys.readouterr().out
    assert re.search(r"float32: \d+\.\d{4} dB.*\nfloat16: \d+\.\d{4} dB.*\nRounding costs \d", log)
    assert "stored as float32" in log
    stored = read_contents(output)["state_dict"]
    assert all(torch.equal(stored[name], tensor) for name, tensor in content["state_dict"].items())
    forced = packed(directory / "checkpoints" / "last.ckpt", tmp_path / "coarse.safetensors", half=True)
    types = {name.split(".")[1]: tensor.dtype for name, tensor in read_contents(forced)["state_dict"].items()}
    assert types["skip"] == torch.float16
    assert read_contents(forced)["state_dict"]["network.head.parametrizations.weight.original1"].dtype == torch.float32
    full, rounded = (read_contents(file)["card"]["scores"][0]["psnr"] for file in (output, forced))
    assert full - rounded > 0.01


def test_other_tests_of_the_same_weights_are_listed(checkpoint, data, tmp_path):
    directory = shutil.copytree(checkpoint.parents[1], tmp_path / "experiment" / "own" / "seed=0")
    last = directory / "checkpoints" / "last.ckpt"
    for name, tested in (("vid4", last), ("others", tmp_path / "another.ckpt")):
        test = tmp_path / "experiment" / f"test={name}" / "seed=0"
        test.mkdir(parents=True)
        text = (directory / "config.yaml").read_text()
        (test / "config.yaml").write_text(
            re.sub("^checkpoint: null$", f"checkpoint: {tested}", text, flags=re.MULTILINE)
        )
        results = json.loads((directory / "results.json").read_text())
        results["summary"] |= {"psnr": 24.68, "ssim": 0.79}
        results["protocol"] |= {"data": f"/somewhere/{name}", "name": name, "channel": "y"}
        (test / "results.json").write_text(json.dumps(results))
    previous = shutil.copy(last, last.with_name("previous.ckpt"))
    assert read_contents(packed(previous, tmp_path / "previous.safetensors", half=False))["card"]["tests"] == []
    output = packed(last, tmp_path / "a.safetensors", half=False)
    (listed,) = read_contents(output)["card"]["tests"]
    assert (listed["data"], listed["psnr"], listed["ssim"]) == ("vid4", 24.68, 0.79)
    assert "| vid4 | 24.68 / 0.7900 | vid4: Y; whole frames; " in output.with_suffix(".md").read_text()


def test_the_checkpoint_that_a_training_started_from_is_named(checkpoint, tmp_path):
    directory = shutil.copytree(checkpoint.parents[1], tmp_path / "run")
    config = directory / "config.yaml"
    text = config.read_text()
    starts = {"edvr_m_reds": "edvr_m_reds", "/a/b/runs/x/own/seed=0/checkpoints/last.ckpt": "x/own/seed=0/checkpoints"}
    for number, (start, name) in enumerate(starts.items()):
        config.write_text(re.sub("^checkpoint: null$", f"checkpoint: {start}", text, flags=re.MULTILINE))
        output = packed(directory / "checkpoints" / "last.ckpt", tmp_path / f"{number}.safetensors", half=False)
        assert read_contents(output)["card"]["start"].startswith(name)
        card = output.with_suffix(".md").read_text().replace("\\", "")
        assert f"- Started from {name}" in card
        assert f"No frame served two purposes; those that {name}" in card
        assert "/a/b/runs" not in card


def test_clips_of_one_name_in_several_folders_are_told_apart(clips, tmp_path):  # noqa: F811
    for split in ("train", "test"):
        shutil.copytree(clips, tmp_path / split)
    data = SimpleNamespace(splits=folder(tmp_path), root=tmp_path)
    listed = _list_clips(data, {"clips": None}).uses
    assert listed["train/left"] == ["training"]
    assert listed["test/left"] == ["test"]
    assert len(listed) == 4


def test_diverged_weights_are_refused(checkpoint, tmp_path):
    directory = shutil.copytree(checkpoint.parents[1], tmp_path / "run")
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["network.skip.bias"][0] = float("nan")
    torch.save(content, directory / "checkpoints" / "last.ckpt")
    config = directory / "config.yaml"
    for half, sentence in ((True, "have diverged"), ("auto", "not a number|have diverged")):
        with pytest.raises(UserError, match=sentence):
            packed(directory / "checkpoints" / "last.ckpt", tmp_path / "a.safetensors", half=half)
        config.write_text(config.read_text().replace("edges: replicate", "edges: reflect"))
    assert not list(tmp_path.glob("a.*"))


def test_files_are_not_overwritten(checkpoint, small, tmp_path):
    for suffix in (".safetensors", ".md", ".jpg"):
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        shutil.copy(small.with_suffix(suffix), folder / f"a{suffix}")
        with pytest.raises(UserError, match=rf"a{suffix} exists already: .* overwrite=true"):
            packed(checkpoint, folder / "a.safetensors")
        assert [path.name for path in folder.iterdir()] == [f"a{suffix}"]
    packed(checkpoint, tmp_path / "md" / "a.safetensors", overwrite=True, half=False)
    assert load(tmp_path / "md" / "a.safetensors")


def test_missing_data_is_asked_for(checkpoint, data, tmp_path):
    directory = shutil.copytree(checkpoint.parents[1], tmp_path / "run")
    config = directory / "config.yaml"
    config.write_text(config.read_text().replace(str(data), str(tmp_path / "gone")))
    last = directory / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"set data\.root=<folder>, or half=true or half=false .*No videos in"):
        packed(last, tmp_path / "a.safetensors")
    assert not list(tmp_path.glob("a.*"))
    packed(last, tmp_path / "a.safetensors", half=True)
    assert "None were measured" in (tmp_path / "a.md").read_text()
    packed(last, tmp_path / "b.safetensors", half=False)
    scores = json.loads((directory / "results.json").read_text())["summary"]
    assert f"{scores['psnr']:.2f} / {scores['ssim']:.4f}" in (tmp_path / "b.md").read_text()
    assert "two purposes" not in (tmp_path / "b.md").read_text()
    packed(shutil.copy(last, last.with_name("previous.ckpt")), tmp_path / "c.safetensors", half=False)
    assert "None were measured" in (tmp_path / "c.md").read_text()
    assert not list(tmp_path.glob("*.jpg"))


def test_a_run_that_names_foreign_code_is_refused(checkpoint, tmp_path):
    directory = shutil.copytree(checkpoint.parents[1], tmp_path / "run")
    config = directory / "config.yaml"
    text = config.read_text()
    for target in ("os.listdir", "src.atomic.os.system", "src.atomic.os", "src.data.layouts.folder.gone"):
        config.write_text(text.replace("src.data.layouts.folder.folder", target))
        with pytest.raises(UserError, match=rf"names {re.escape(target)} in data, no part of this suite"):
            packed(directory / "checkpoints" / "last.ckpt", tmp_path / "a.safetensors")


def test_other_files_are_refused(checkpoint, small, tmp_path):
    state, *_ = golden_network("edvr_tsa")
    published = checkpoint.with_name("published.pth")
    torch.save(state, published)
    alone = shutil.copy(checkpoint, tmp_path / "alone.ckpt")
    cases: list[tuple[Path, str, dict[str, Any], str]] = [
        (published, "a.safetensors", {}, "is no checkpoint of this suite"),
        (alone, "a.safetensors", {}, "lies in no run"),
        (tmp_path / "gone.ckpt", "a.safetensors", {}, "There is no checkpoint"),
        (checkpoint, "a.pth", {}, r"must end in \.safetensors"),
        (checkpoint, "a.safetensors", {"card": str(tmp_path / "a.txt")}, r"must end in \.md"),
    ]
    for path, output, options, sentence in cases:
        with pytest.raises(UserError, match=sentence) as caught:
            packed(path, tmp_path / output, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="Where to"):
        pack(compose("task=evaluate"), tmp_path, PackOptions(pack=str(checkpoint)))
    assert [path.name for path in tmp_path.iterdir()] == ["alone.ckpt"]
    assert issubclass(CheckpointError, UserError)


def test_the_command(checkpoint, data, small, tmp_path):
    """The same weights as from Python, with data that has moved, under another name of the card."""
    directory = shutil.copytree(checkpoint.parents[1], tmp_path / "a,b=1" / "seed=0")
    config = directory / "config.yaml"
    config.write_text(config.read_text().replace(str(data), str(tmp_path / "gone")))
    command = [
        "task=weights",
        f"pack={directory / 'checkpoints' / 'last.ckpt'}",
        f"output={tmp_path / 'w.safetensors'}",
    ]
    log = run(*command, fails=True)
    assert "set data.root=<folder>, or half=true or half=false" in log
    assert "Traceback" not in log
    log = run(*command, f"data.root={data}", f"card={tmp_path / 'cards' / 'w.md'}", "limits=Rain, and it's dark.")
    assert re.search(r"float32: .* dB.*\nfloat16: .* dB.*\nRounding costs -?0\.00\d\d dB: stored as float16", log)
    ours, theirs = (read_contents(file)["state_dict"] for file in (tmp_path / "w.safetensors", small))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert {path.name for path in (tmp_path / "cards").iterdir()} == {"w.md", "w.jpg"}
    assert "Rain, and it's dark." in (tmp_path / "cards" / "w.md").read_text()
    assert read_contents(tmp_path / "w.safetensors")["card"]["scores"] == read_contents(small)["card"]["scores"]
    assert "exists already" in run(*command, f"data.root={data}", fails=True)
