"""The options of tasks: dataclasses and YAML files agree, values are converted and checked."""

from __future__ import annotations

from dataclasses import MISSING, fields

import pytest
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from src.bench.options import BenchOptions
from src.config.composition import CONF, compose, explain
from src.config.options import ROOT, build_options, options_of, override_options
from src.config.root import RootOptions
from src.config.signatures import signature_of
from src.config.validation import OBJECT_GROUPS
from src.errors import UserError

TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))


def agree(kind: type, node: DictConfig, names: set[str]) -> None:
    """Check that these options of a node are the fields of a dataclass, with the same defaults."""
    assert names == {field.name for field in fields(kind)}
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    assert required == {name for name in names if OmegaConf.is_missing(node, name)}
    values = {name: "" if name in required else node[name] for name in names}
    assert build_options(kind, values) == kind(**dict.fromkeys(required, ""))


@pytest.mark.parametrize("task", TASKS)
def test_yaml_and_dataclasses_of_a_task_agree(task):
    config = compose(f"task={task}")
    own = {str(name) for name in OmegaConf.load(CONF / "task" / f"{task}.yaml")} - {
        "task",
        "hydra",
        "_target_",
        "defaults",
    }
    kinds = options_of(get_method(config.task._target_))
    nodes = {name for name in kinds if name != ROOT}
    assert nodes <= own
    for name in nodes:
        agree(kinds[name], config[name], {str(key) for key in config[name]})
    assert ROOT in kinds or own == nodes
    if ROOT in kinds:
        agree(kinds[ROOT], config, own - nodes)


def test_yaml_and_dataclasses_of_the_root_agree():
    config = compose("size=full")
    names = [name for name in config if name not in OBJECT_GROUPS]
    assert set(names) == {field.name for field in fields(RootOptions)} - set(OBJECT_GROUPS)
    held = build_options(RootOptions, {**dict.fromkeys(OBJECT_GROUPS), **{name: config[name] for name in names}})
    assert held == RootOptions(**dict.fromkeys(OBJECT_GROUPS))


def test_literals_and_lists_become_those_of_the_annotations():
    options = build_options(BenchOptions, compose("task=bench", "bench.precision=32", "bench.models=[zsm]").bench)
    assert (options.precision, options.models) == ("32", ("zsm",))


def test_an_option_without_a_value_is_named():
    config = compose("task=restore", "output=b.mp4")
    with pytest.raises(MissingMandatoryValue) as caught:
        build_options(options_of(get_method(config.task._target_))[ROOT], config)
    assert explain(caught.value) == "input is needed and has no default: add input=<value>."


def test_overrides_of_options_are_checked():
    options = override_options(BenchOptions(), ["crop=64", "precision=bf16"], "bench")
    assert options == BenchOptions(crop=64, precision="bf16")
    with pytest.raises(UserError, match=r"^bench has no option corp: did you mean crop\?$"):
        override_options(BenchOptions(), ["corp=64"], "bench")
    with pytest.raises(UserError, match=r"^bench\.crop is 0, but must be at least 1\.$"):
        override_options(BenchOptions(), ["crop=0"], "bench")


def test_a_function_passes_its_options_on_to_the_class_that_it_returns():
    trainer = signature_of("src.training.trainer.build_trainer")
    assert {"max_steps", "accelerator"} <= trainer.kinds.keys()
    assert trainer.provided == {"default_root_dir", "logger", "callbacks", "plugins"}
    assert not trainer.further
    assert signature_of("src.training.wandb.build_logger").further  # wandb.init takes the others
