"""Run directories: claim them, record the command in them, compare them with a configuration."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.atomic import atomic_write, file_lock
from src.config.code_record import list_changed, read_commit, record_code
from src.config.overrides import PAIRED, PATH_OPTIONS, STUDY, split_paths
from src.errors import UserError
from src.zoo import is_name

NO_EFFECT = ("ablation", "logger", "paths.runs", "resume", "debug", "trust", "progress")  # on results
UNNAMED = (  # options that no directory is named after
    *("experiment", "ablation", "seed", "resume", "debug", "trust", "progress", "logger", "paths.", "hydra.", "hydra/"),
    *("data.workers", "data.timeout", "data.skip_damaged"),  # a run may have to resume with others
)
IMPLIED = ("test=own", PAIRED[1])
SWEEP_ONLY = (  # Hydra overrides that the command of a single point does not repeat
    *("hydra.mode", "hydra.launcher", "hydra/launcher", "hydra.sweep", "hydra/sweep", STUDY),
)
CHANGEABLE = (  # options with which a resumed run may differ
    *("resume", "debug", "trust", "progress", "logger", "callbacks.progress", "callbacks.last", "paths"),
    *("trainer.precision", "trainer.accelerator", "trainer.devices", "trainer.log_every_n_steps"),
    *("data.workers", "data.timeout"),
)


@contextmanager
def claim_directory(config: DictConfig, directory: Path, *, first: bool = True) -> Iterator[None]:
    """Lock ``directory`` for this run, and record the configuration, the command and the code in it.

    A run that ends with a ``UserError`` before it has weights or results removes a directory that it has made, so that
    the corrected command finds it free.

    Args:
        config: configuration of the run.
        directory: directory of the run.
        first: True on the first rank, which alone writes.

    Raises:
        UserError: the directory holds a run, and ``resume`` is not true, or another process runs in it.
    """
    if not first:
        yield
        return
    if (directory / "config.yaml").exists() and not config.resume:
        raise UserError(
            f"{directory} already holds a run, and a run never overwrites another: add resume=true to continue it, or "
            "choose another seed=<n> or paths.runs=<folder>."
        )
    directory.mkdir(parents=True, exist_ok=True)
    new = not any(directory.iterdir())
    try:
        busy = f"Another process runs in {directory}: wait until it ends, or stop it."
        with file_lock(directory / "commit.txt", busy) as file:
            file.truncate(0)
            file.write(read_commit() + "\n")
            file.flush()
            with atomic_write(directory / "config.yaml") as text:
                text.write(OmegaConf.to_yaml(config, resolve=True))
            if HydraConfig.initialized():
                with atomic_write(directory / "command.txt") as text:
                    text.write(shlex.join(["python", "-m", "src.run", *list_arguments(HydraConfig.get())]) + "\n")
            record_code(directory)
            yield
    except UserError:
        if new and not any((directory / outcome).exists() for outcome in ("checkpoints", "results.json")):
            shutil.rmtree(directory, ignore_errors=True)
        raise


def list_arguments(hydra: Any) -> list[str]:
    """List the arguments that run a command again, or a single point of a sweep.

    Args:
        hydra: Hydra's own configuration.
    """
    sources = hydra.runtime.config_sources
    folders = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
    own = [override for override in hydra.overrides.hydra if not override.startswith(SWEEP_ONLY)]
    task = list(hydra.overrides.task)
    single = ["hydra.mode=RUN"] if any(override.startswith("ablation=") for override in task) else []
    return [*folders, *task, *own, *single]


def is_begun(config: DictConfig, directory: Path) -> bool:
    """Return True if ``directory`` holds a run of this configuration and of the user's code as it is.

    Hydra's own node does not count.
    """
    if not (directory / "config.yaml").exists() or list_changed(directory):
        return False
    run = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    before: Any = OmegaConf.load(directory / "config.yaml")
    now: Any = OmegaConf.create(OmegaConf.to_yaml(run, resolve=True))
    for option in ("resume", "debug", "trust", "progress"):
        before[option] = now[option] = None
    for option in now:  # newer than the run, at its default
        if option not in before and now[option] is None:
            before[option] = None
    if OmegaConf.select(now, "trainer.precision") == "auto":  # the first start has resolved it for its machine
        now.trainer.precision = OmegaConf.select(before, "trainer.precision")
    return bool(before == now)


def is_finished(config: DictConfig, directory: Path) -> bool:
    """Return True if ``directory`` holds the results of this configuration."""
    return (directory / "results.json").exists() and is_begun(config, directory)


def read_command(directory: Path) -> str:
    """Return the command of a run without options that do not affect its results, and with paths by their last part.

    Empty for runs that recorded none.
    """
    file = directory / "command.txt"
    if not file.is_file():
        return ""
    words = shlex.split(file.read_text(encoding="utf-8"))
    unimportant = (
        *NO_EFFECT,
        "--config-dir",
        "paths.",
        "hydra.",
        "hydra/",
        "data.workers",
        "data.timeout",
        "callbacks.progress",
    )
    kept = [word for word in words if not word.lstrip("+~").startswith(unimportant)]
    return " ".join(_name_folders(word) for word in kept)


def _name_folders(override: str) -> str:
    key, equals, value = override.partition("=")
    if key not in PATH_OPTIONS:
        return shlex.quote(override)
    paths = [path.strip("'\"") for path in split_paths(value)]
    return key + equals + " ".join(path if is_name(path) else f"<{Path(path).name}>" for path in paths)
