"""Continuing a run by its directory or a checkpoint: the command of the run, and what has changed since."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.config.composition import compose
from src.config.resuming import describe_nearest, expand_resume, list_changes
from src.errors import UserError

COMMAND = ["experiment=zsm_vimeo", "size=mini", "data.root='a b'", "trainer.max_steps=3"]


def begun(directory: Path, *overrides: str) -> Path:
    """A run's directory with what a begun training leaves there."""
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "checkpoints" / "last.ckpt").touch()
    quoted = " ".join(f'"{override}"' for override in overrides)
    (directory / "command.txt").write_text(f"python -m src.run {quoted}\n")
    config = compose(*overrides)
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    return directory


@pytest.mark.parametrize("named", ["", "checkpoints/last.ckpt"])
def test_a_run_is_continued_by_its_own_command(named, tmp_path):
    run = begun(tmp_path / "zsm_vimeo" / "x" / "seed=0", *COMMAND)
    arguments = expand_resume([f"resume={run / named}", "trainer.max_steps=6", "+data.span=9"])
    assert arguments[:3] == COMMAND[:3]
    assert arguments[-1] == f"hydra.run.dir='{run}'"
    assert [word for word in arguments if word.startswith("trainer.max_steps")] == ["trainer.max_steps=6"]
    assert expand_resume(arguments) == arguments  # as every rank of a run does


@pytest.mark.parametrize("resume", ["resume=true", "resume=false", "seed=1"])
def test_other_commands_stay_as_they_are(resume):
    assert expand_resume(["experiment=zsm_vimeo", resume]) == ["experiment=zsm_vimeo", resume]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [(["-m"], "leave out -m"), (["task=evaluate"], "not task=evaluate"), (["resume=nowhere"], "is not a run")],
)
def test_what_cannot_be_continued_is_refused(more, sentence, tmp_path):
    run = begun(tmp_path / "zsm_vimeo" / "seed=0", *COMMAND)
    with pytest.raises(UserError, match=sentence):
        expand_resume([f"resume={run}", *more])


def test_changes_are_listed_with_both_values(tmp_path):
    run = begun(tmp_path / "zsm_vimeo" / "seed=0", *COMMAND)
    now = compose(*COMMAND[:3], "trainer.max_steps=6", "model.optimizer.lr=0.25", "resume=true", "data.workers=0")
    changes = list_changes(run, now)
    assert set(changes) == {"trainer.max_steps", "model.optimizer.lr"}
    assert changes["trainer.max_steps"] == (3, 6)
    assert list_changes(run, compose(*COMMAND)) == {}


def test_the_nearest_run_is_named_with_the_command_that_continues_it(tmp_path):
    near = begun(tmp_path / "zsm_vimeo" / "a" / "seed=0", *COMMAND)
    begun(tmp_path / "zsm_vimeo" / "b" / "seed=0", *COMMAND, "data.crop=32")
    begun(tmp_path / "edvr_vimeo" / "seed=0", "experiment=edvr_vimeo")
    longer = [*COMMAND[:3], "trainer.max_steps=6"]
    config = compose(*longer, f"paths.runs={tmp_path}")
    said = describe_nearest(tmp_path / "zsm_vimeo" / "c" / "seed=0", config, longer)
    assert f"resume={near} trainer.max_steps=6 continues it" in said.replace("'", "")
    assert describe_nearest(tmp_path / "vtsr_gopro" / "seed=0", config, longer) == ""


def test_resume_is_true_false_or_a_path():
    assert compose("resume=true").resume is True
    assert compose("resume=runs/a=1,b/seed=0").resume == "runs/a=1,b/seed=0"
