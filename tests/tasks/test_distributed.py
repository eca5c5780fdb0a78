"""Two real processes give the scores of one."""

from __future__ import annotations

import json

import pytest

from tests.tasks.test_tasks import TINY, clips, run, trained  # noqa: F401 - fixtures


@pytest.mark.slow
def test_two_ranks_score_as_one_does(clips, trained, tmp_path):  # noqa: F811
    last = trained / "checkpoints" / "last.ckpt"
    both = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    common = [option for option in TINY if not option.startswith("trainer.")]
    run("task=evaluate", *common, *both, f"data.root={clips}", f"checkpoint={last}", f"paths.runs={tmp_path}")
    (scores,) = tmp_path.rglob("results.json")
    ours, theirs = (json.loads(path.read_text()) for path in (scores, trained / "results.json"))
    assert ours["clips"].keys() == theirs["clips"].keys()
    for name, clip in theirs["clips"].items():
        assert len(ours["clips"][name]["frames"]) == len(clip["frames"])
        assert ours["clips"][name]["psnr"] == pytest.approx(clip["psnr"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["model.checkpointing=true", "trainer.accumulate_grad_batches=2"]])
def test_two_ranks_train(clips, tmp_path, more):  # noqa: F811
    both = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_steps=2"]
    common = [option for option in TINY if not option.startswith(("trainer.devices", "trainer.accelerator"))]
    run("experiment=zsm_vimeo", *both, *common, *more, f"data.root={clips}", f"paths.runs={tmp_path}")
    (scores,) = tmp_path.rglob("results.json")
    assert set(json.loads(scores.read_text())["clips"]) == {"left", "right"}
