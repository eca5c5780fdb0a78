"""Continue runs: ``resume=<run directory or checkpoint>``, changed options, and the run nearest to a command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.config.run_directory import CHANGEABLE, UNNAMED
from src.errors import UserError

SWEEP_FLAGS = ("-m", "--multirun")


def expand_resume(arguments: Sequence[str]) -> list[str]:
    """Replace ``resume=<run directory or checkpoint>`` by the command of that run, in its directory.

    Options typed beside it replace those of the run.

    Raises:
        UserError: there is no such run, or the command is not one of training.
    """
    typed = {_key(argument): argument for argument in arguments}
    value = typed.get("resume", "").partition("=")[2].strip("'\"")
    if value.lower() in ("", "true", "false", "null"):
        return list(arguments)
    path = Path(os.path.expanduser(value))
    directory = path.absolute() if path.is_dir() else path.absolute().parent.parent
    command = directory / "command.txt"
    if not path.exists() or not command.is_file() or not (directory / "config.yaml").is_file():
        raise UserError(
            f"resume={value} is not a run: name a run's directory, which holds config.yaml and command.txt, or a "
            "checkpoint in it. checkpoint=<file> starts a new run from any weights."
        )
    if any(argument in SWEEP_FLAGS for argument in arguments):
        raise UserError("resume=<run> continues a single run: leave out -m, or write resume=true to continue a sweep.")
    before = [word for word in shlex.split(command.read_text(encoding="utf-8")) if "=" in word]
    task = typed.get("task") or next((word for word in before if word.startswith("task=")), "task=train")
    if task != "task=train":
        raise UserError(f"resume=<run> continues a training, not {task}: use checkpoint=<file> for its weights.")
    kept = [word for word in before if _key(word) not in typed and _key(word) != "hydra.run.dir"]
    own = [] if "hydra.run.dir" in typed else [f"hydra.run.dir='{directory}'"]
    return [*kept, *arguments, *own]


def list_changes(directory: Path, config: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Return the options of the run in ``directory`` that differ in ``config``, before and now.

    Options without an effect on results are left out.
    """
    file = directory / "config.yaml"
    if not file.exists():
        return {}
    run = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    before = _flatten(OmegaConf.to_container(OmegaConf.load(file)))
    now = _flatten(OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(run, resolve=True))))
    keys = [key for key in dict.fromkeys([*before, *now]) if not key.startswith(CHANGEABLE)]
    return {key: (before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)}


def describe_nearest(directory: Path, config: DictConfig, overrides: Sequence[str]) -> str:
    """Describe the begun run whose command differs least from ``overrides``; empty if there is none.

    Only runs of the same experiment and seed count.
    """
    root = Path(config.paths.runs).absolute()
    if root not in directory.absolute().parents:
        return ""
    head = root / directory.absolute().relative_to(root).parts[0]
    wanted = _named(overrides, config.seed)
    found = []
    seed = f"seed={config.seed}"
    for file in (*head.glob(f"{seed}/command.txt"), *head.glob(f"*/{seed}/command.txt")):
        if (file.parent / "checkpoints" / "last.ckpt").exists() and file.parent != directory.absolute():
            words = [word for word in shlex.split(file.read_text(encoding="utf-8")) if "=" in word]
            found.append((len(wanted ^ _named(words, config.seed)), -file.stat().st_mtime, file.parent, words))
    if not found:
        return ""
    _, _, nearest, words = min(found)
    more = sorted(wanted - _named(words, config.seed))
    change = " ".join(shlex.quote(word) for word in more)
    return f"The nearest run is {nearest}: resume={shlex.quote(str(nearest))}{' ' * bool(change)}{change} continues it."


def _named(overrides: Sequence[str], seed: Any) -> set[str]:
    """Return the overrides that identify a run."""
    unnamed = (*UNNAMED, "--config-dir")
    return {override for override in overrides if not override.lstrip("+~").startswith(unnamed)} | {f"seed={seed}"}


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def _flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries by their dotted names."""
    if not isinstance(node, dict):
        return {path: node}
    return {
        name: value
        for key, child in node.items()
        for name, value in _flatten(child, f"{path}.{key}" if path else str(key)).items()
    }
