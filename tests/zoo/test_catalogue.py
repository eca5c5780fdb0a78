"""The catalogue is valid, complete, and its scores name protocols that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src import zoo
from src.checkpoints import load, read_contents
from src.config.composition import compose
from src.errors import CheckpointError
from src.nn.blocks import count_parameters
from src.zoo import cache, catalogue
from src.zoo.catalogue import find, read_catalogue

ENTRIES = read_catalogue()
SCORED = [(entry.name, score) for entry in ENTRIES.values() for score in entry.scores]
GOOD = {"network": "none", "task": "a test", "sha256_prefix": "01234567"}


def test_every_published_file_is_an_entry(shared):
    text = (shared / "weights.md").read_text()
    files = {entry.file: entry for entry in ENTRIES.values()}
    addresses = [address for entry in ENTRIES.values() for address in entry.addresses]
    named = set(re.findall(r"[\w.-]+\.pth", text))
    assert len(named) >= 16
    assert [name for name in named if name not in files and not any(a.endswith(f"/{name}") for a in addresses)] == []
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if ".pth |" in row]
    assert len(rows) == 11
    for row in rows:
        entry = files[row[0]]
        assert (entry.sha256 or entry.sha256_prefix).startswith(Path(row[0]).stem[-8:])
        assert len(row) == 2 or entry.by_hand == [f"https://drive.google.com/uc?id={row[1]}"]
        published = [(float(a), float(b)) for a, b in re.findall(r"([\d.]+) / ([\d.]+)", row[-1])]
        assert [(score.psnr, score.ssim) for score in entry.scores] == published
    for name, digest in re.findall(r"`(\S+\.pth)` `([0-9a-f]{64})`", text):
        [entry] = [entry for entry in ENTRIES.values() if any(a.endswith(f"/{name}") for a in entry.addresses)]
        assert entry.sha256 == digest
    zsm = files["xiang2020zooming.pth"]
    assert zsm.git_blob in text
    assert zsm.addresses[0] in text


@pytest.mark.parametrize(("name", "score"), SCORED, ids=[f"{name}-{score.channel}" for name, score in SCORED])
def test_a_score_names_a_protocol_of_its_channel(name, score):
    command = [f"data={score.data}", f"protocol={score.protocol}", *score.overrides]
    config = compose("task=evaluate", f"checkpoint={name}", *command)
    assert config.protocol.channel == score.channel
    scale = 1
    for step in config.degradation.steps:
        scale *= step.get("scale", 1)
    assert scale == (ENTRIES[name].scale or 1)


@pytest.mark.parametrize(
    ("name", "command"),
    {
        "edvr_m_reds": "model=edvr_m",
        "edvr_m_no_tsa_reds": "model=edvr_m model/network/fuse=conv",
        "edvr_l_reds": "model=edvr_l",
        "edvr_l_vimeo": "model=edvr_l model.network.frames=7",
        "edvr_l_reds_blur": "model=edvr_blur",
        "edvr_l_reds_deblur": "model=edvr_deblur",
        "edvr_l_no_tsa_reds_mmagic": "model=edvr_l_no_tsa",
        "zsm_vimeo": "model=zsm_unguided",
    }.items(),
)
def test_numbers_of_weights_are_those_of_the_networks(name, command):
    with torch.device("meta"):
        assert count_parameters(instantiate(compose(*command.split()).model.network)) == ENTRIES[name].parameters


def test_files_are_told_apart():
    assert len({entry.cached for entry in ENTRIES.values()}) == len(ENTRIES)
    hashes = [entry.sha256 or entry.sha256_prefix or entry.git_blob for entry in ENTRIES.values()]
    assert len({digest[:8] for digest in hashes}) == len(hashes)


def test_every_shipped_file_is_an_entry_with_its_hash():
    for path in sorted(catalogue.SHIPPED.glob("*")):
        assert path.name == f"{path.stem}.safetensors"
        assert ENTRIES[path.stem].matches(cache.digest(path))
        assert ENTRIES[path.stem].size == path.stat().st_size


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.shipped.is_file()])
def test_an_entry_of_a_shipped_file_says_what_the_file_says(name):
    entry, network = ENTRIES[name], load(name)
    card, geometry = read_contents(entry.shipped)["card"], network.geometry
    assert (entry.scale, entry.frames_in, entry.frames_out) == (geometry.scale, geometry.window, len(geometry.times))
    assert entry.parameters == count_parameters(network)
    assert (entry.steps, entry.licence, name) == (card["steps"], card["licence"], card["name"])
    text = (Path(__file__).parents[2] / "docs" / "weights" / f"{name}.md").read_text()
    assert card["commit"] in text
    assert all(f"{score['psnr']:.2f} / {score['ssim']:.4f}" in text for score in card["scores"])


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.shipped.is_file()])
def test_the_recipe_of_a_shipped_file_is_of_its_network_and_steps(name):
    recipe = compose(f"experiment=release_{name}")
    assert count_parameters(instantiate(recipe.model.network)) == ENTRIES[name].parameters
    assert recipe.trainer.max_steps == ENTRIES[name].steps


def test_gpl_weights_are_not_shipped():
    assert not any(entry.shipped.exists() for entry in ENTRIES.values() if (entry.licence or "").startswith("GPL"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"licens": "MIT"}, "licens"),
        ({"size": "large"}, "large"),
        ({"sha256": "0123"}, "sha256 is '0123'"),
        ({"sha256_prefix": None}, "it needs one of sha256"),
        ({"kind": "netwrk"}, "kind is 'netwrk'"),
        ({"addresses": ["ftp://a/b"]}, "'ftp://a/b' is no address"),
        ({"scores": [{"data": "vid4"}]}, "psnr|protocol|channel|source"),
        (
            {"scores": [{"data": "v", "protocol": "p", "channel": "luma", "psnr": 30.0, "source": "s"}]},
            "channel is 'luma'",
        ),
        ({"network": None}, "network"),
    ],
)
def test_a_malformed_entry_is_named(change, complaint, tmp_path):
    file = tmp_path / "entries.yaml"
    OmegaConf.save({"good": GOOD, "odd": {**GOOD, **change}}, file)
    with pytest.raises(CheckpointError, match=rf"^The entry odd of .*({complaint})"):
        read_catalogue(file)


def test_a_path_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert zoo.is_name("edvr_m_reds")
    (tmp_path / "edvr_m_reds").write_bytes(b"mine")
    assert not zoo.is_name("edvr_m_reds")
    assert zoo.locate("edvr_m_reds") == Path("edvr_m_reds")
    (tmp_path / "edvr_l_reds").mkdir()  # a folder is no checkpoint
    assert zoo.is_name("edvr_l_reds")


@pytest.mark.parametrize(
    ("typed", "near"),
    [("edvr_m_red", "edvr_m_reds"), ("edvr_l_deblur", "edvr_l_reds_deblur"), ("zsm_vime", "zsm_vimeo")],
)
def test_a_mistyped_name_gets_its_nearest(typed, near):
    with pytest.raises(CheckpointError, match=rf"^There is no checkpoint {typed}; did you mean {near}\?$"):
        find(typed)


@pytest.mark.parametrize("path", ["runs/last.ckpt", "runs/zsm_vimeo/seed=0"])
def test_a_path_that_does_not_exist_is_no_name(path):
    with pytest.raises(
        CheckpointError, match=rf"^There is no checkpoint {path}; give a .ckpt, .pth or .safetensors file"
    ):
        zoo.locate(path)


def test_a_backbone_is_no_network():
    with pytest.raises(CheckpointError, match=r"^vgg16_imagenet is a backbone \(VGG16\), not a network"):
        load("vgg16_imagenet")
