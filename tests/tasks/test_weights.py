"""Weights by name on the command line: listed, fetched, verified, and wherever a checkpoint's path does."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.config.build import (
    build_inference_network,
    build_restorer,
    build_training_network,
    list_weights,
)
from src.config.comparison import describe_published
from src.config.composition import compose, to_plain
from src.config.options import run_task
from src.config.overrides import split_paths
from src.config.run_directory import read_command
from src.config.run_names import name_overrides
from src.config.validation import validate
from src.engine.file_job import fingerprint
from src.errors import CheckpointError, UserError
from src.sweeps.aggregate import Point
from src.zoo import catalogue
from tests.tasks.test_restore import film, pixels
from tests.tasks.test_tasks import ROOT, clips  # noqa: F401 - a fixture
from tests.zoo.server import give, serve

pytestmark = pytest.mark.long

MODEL = ["model=edvr_m", "size=mini", "size.width=0.125", "model/network/fuse=conv"]
SCORE = {"data": "folder", "protocol": "rgb", "channel": "rgb", "psnr": 20.0, "ssim": 0.5, "source": "a test"}


class Zoo:
    """A catalogue of two small networks on a server of this machine, and an empty cache."""

    def __init__(self, folder: Path, server) -> None:
        self.folder, self.server, self.cache = folder, server, folder / "cache"
        self.file, self.entries = folder / "entries.yaml", folder / "files"
        self.entries.mkdir()
        content = {}
        for seed, name in enumerate(("tiny", "tiny_too")):
            path = self.write(name, seed)
            server.answers[f"/{name}"] = give(path.read_bytes())
            content[name] = {
                "network": "a small EDVR",
                "task": "super-resolution",
                "scale": 4,
                "file": f"{name}.ckpt",
                "addresses": [server.url(f"/{name}")],
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "licence": "MIT",
                "scores": [SCORE],
            }
        OmegaConf.save(content, self.file)

    def write(self, name: str, seed: int) -> Path:
        description = to_plain(compose(*MODEL).model.network)
        torch.manual_seed(seed)
        weights = instantiate(description).state_dict()
        content = {"network": description, "state_dict": {f"network.{key}": value for key, value in weights.items()}}
        torch.save(content, self.entries / f"{name}.ckpt")
        return self.entries / f"{name}.ckpt"

    def run(self, *arguments: object, fails: bool = False) -> str:
        """Run the command line with this catalogue."""
        code = f"from pathlib import Path; from src.zoo import catalogue; catalogue.FILE = Path({str(self.file)!r}); "
        command = [sys.executable, "-c", f"{code}from src.run import main; main()", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert (done.returncode != 0) == fails, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout + done.stderr

    @property
    def fetched(self) -> list[str]:
        return [path for path, _ in self.server.requests]


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("ZEITLUPE_CACHE", str(tmp_path / "cache"))
    with serve() as server:
        zoo = Zoo(tmp_path, server)
        monkeypatch.setattr(catalogue, "FILE", zoo.file)
        yield zoo


def test_weights_are_listed_fetched_and_verified(zoo, capsys):
    def call(*arguments: str) -> str:
        config = compose("task=weights", *arguments)
        validate(config)
        run_task(config, zoo.folder)
        return capsys.readouterr().out

    row = next(line for line in call().splitlines() if " tiny " in line)
    assert all(part in row for part in ("x4 super-resolution", "a small EDVR", "MIT", "20.00 dB, folder RGB"))
    assert "yes" not in row
    assert zoo.fetched == []
    log = call("fetch=[tiny,tiny_too]")
    (path,) = zoo.cache.glob("tiny-*.ckpt")
    assert f"tiny: {path}" in log
    assert zoo.fetched == ["/tiny", "/tiny_too"]
    assert "yes" in next(line for line in call().splitlines() if " tiny " in line)
    (zoo.cache / "stray.pth").write_bytes(b"stray")
    log = call("verify=true")
    assert f"ok  tiny: {path}" in log
    assert f"no  {zoo.cache / 'stray.pth'} belongs to no name" in log
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=f"^1 of 3 files is damaged: delete {path}"):
        call("verify=true")
    assert f"!!  tiny: {path} has the sha256" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"^There is no checkpoint tiny_to; did you mean tiny_too\?$"):
        call("fetch=tiny_to")
    with pytest.raises(CheckpointError, match=r"task=weights lists the names\.$"):
        call("fetch=something_else")
    path.unlink()
    path.symlink_to("/proc/self/mem")  # not even root can read its beginning
    with pytest.raises(UserError, match=f"^1 of 3 files is unreadable: delete {path}"):
        call("verify=true")
    assert f"!!  {path} cannot be read" in capsys.readouterr().out
    assert "yes" not in next(line for line in call().splitlines() if " tiny " in line)


def test_a_name_restores_as_its_file_does(zoo):
    source = film(zoo.folder / "in.mkv", frames=4, size=(32, 32))
    command = ["task=restore", f"input={source}", "codec=lossless", "trainer.accelerator=cpu"]
    zoo.run(*command, "checkpoint=tiny", f"output={zoo.folder / 'named.mkv'}")
    zoo.run(*command, f"checkpoint={zoo.entries / 'tiny.ckpt'}", f"output={zoo.folder / 'path.mkv'}")
    assert torch.equal(pixels(zoo.folder / "named.mkv"), pixels(zoo.folder / "path.mkv"))
    assert zoo.fetched == ["/tiny"]


def test_published_scores_stand_beside_ours(zoo, clips):  # noqa: F811
    command = ["task=evaluate", "checkpoint=tiny", "data=folder", f"data.root={clips}"]
    log = zoo.run(*command, "trainer.accelerator=cpu", f"paths.runs={zoo.folder / 'runs'}")
    assert "Published: 20.00 dB, SSIM 0.5000 (a test); here: " in log
    (results,) = (zoo.folder / "runs").rglob("results.json")
    assert results.parts[-3].startswith("checkpoint=tiny,data")
    assert '"checkpoint": "tiny"' in results.read_text()
    other = describe_published(compose(*command, "protocol.crop=4"), {})
    assert other == ["Published under other conditions: 20.00 dB, with task=evaluate data=folder protocol=rgb"]
    assert describe_published(compose(*command, "checkpoint=null"), {}) == []


def test_a_network_is_identified_by_the_bytes_of_its_weights(zoo):
    named, path = compose("checkpoint=tiny"), compose(f"checkpoint={zoo.entries / 'tiny.ckpt'}")
    assert fingerprint(list_weights(named), {}) == fingerprint(list_weights(path), {})
    stages = [
        fingerprint(list_weights(compose("model=cascade", f"model.network.stages=[{names}]")), {})
        for names in ("tiny,tiny_too", "tiny_too,tiny", f"tiny,{zoo.entries / 'tiny_too.ckpt'}")
    ]
    assert stages[0] == stages[2] != stages[1]
    assert fingerprint(list_weights(compose("model=bicubic")), {}) not in stages


def test_a_training_and_a_cascade_start_from_names(zoo):
    network = build_training_network(compose(*MODEL, "checkpoint=tiny"))
    weights = torch.load(zoo.entries / "tiny.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[f"network.{key}"], value) for key, value in network.state_dict().items())
    cascade = build_inference_network(compose("model=cascade", "model.network.stages=[tiny,tiny_too]"))
    assert cascade.geometry.scale == 16
    assert zoo.fetched == ["/tiny", "/tiny_too"]


def test_vtsr_starts_from_backbones_by_name(zoo):
    command = ["model=vtsr", "degradation=none", "size=mini", "size.width=0.125", "model.encoder_weights=tiny"]
    with pytest.raises(
        CheckpointError, match=r"^model\.encoder_weights: tiny is a network \(a small EDVR\), not a back"
    ):
        build_restorer(compose(*command), instantiate(compose(*command).model.network))
    content = OmegaConf.load(zoo.file)
    content.tiny.kind = "backbone"
    OmegaConf.save(content, zoo.file)
    catalogue._read.cache_clear()
    config = compose(*command, "model.vgg_weights=elsewhere.pth")
    restorer = build_restorer(config, instantiate(config.model.network))
    assert Path(restorer.files[0]).read_bytes() == (zoo.entries / "tiny.ckpt").read_bytes()
    assert restorer.files[1] == "elsewhere.pth"
    with pytest.raises(
        CheckpointError, match=r"^model\.vgg_weights: There is no checkpoint tinyy; did you mean tiny\?$"
    ):
        build_restorer(compose(*command, "model.vgg_weights=tinyy"), restorer.network)


def test_a_report_fetches_nothing(zoo, tmp_path):
    config = compose("model=cascade", "model.network.stages=[tiny,tiny_too]")
    OmegaConf.save(OmegaConf.masked_copy(config, ["model"]), tmp_path / "config.yaml")
    with pytest.raises(CheckpointError, match="tiny are not here: task=weights fetch=tiny fetches them"):
        _ = Point(tmp_path, []).counted
    assert zoo.fetched == []
    build_inference_network(config)
    assert Point(tmp_path, []).counted["parameters"] > 0


def test_runs_are_named_after_weights(zoo, monkeypatch):
    assert name_overrides(["checkpoint=tiny"]) == "checkpoint=tiny"
    words = "python -m src.run checkpoint=tiny 'model.network.stages=[tiny,a/last.ckpt]' data.root=/videos/b\n"
    (zoo.folder / "command.txt").write_text(words)
    recipe = "python -m src.run checkpoint=tiny model.network.stages=tiny <last.ckpt> data.root=<b>"
    assert read_command(zoo.folder) == recipe
    stages = "model.network.stages=[tiny,runs/a=1,b/last.ckpt,tiny_too,c.safetensors]"
    assert split_paths(stages.partition("=")[2]) == ["tiny", "runs/a=1,b/last.ckpt", "tiny_too", "c.safetensors"]
    assert name_overrides([stages]).startswith("model.network.stages=tiny+last.ckpt-")
    monkeypatch.chdir(zoo.folder)
    Path("tiny").write_bytes(b"a file")
    assert name_overrides(["checkpoint=tiny"]).startswith("checkpoint=tiny-")
