"""Run directories: name them after the overrides of a command, claim them, compare them with a configuration."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.atomic import atomic_write, file_lock
from src.config.overrides import PAIRED, PATH_OPTIONS, by_place, split_paths
from src.errors import UserError
from src.zoo import is_name

CHECKOUT = Path(__file__).resolve().parents[2]
NO_EFFECT = ("ablation", "logger", "paths.runs", "resume", "debug")  # options that do not affect results
UNNAMED = (  # options that no directory is named after
    *("experiment", "ablation", "seed", "resume", "debug", "logger", "paths.", "hydra.", "hydra/"),
    *("data.workers", "data.timeout", "data.skip_damaged"),  # a run may have to resume with others
)
IMPLIED = ("test=own", PAIRED[1])
CHANGEABLE = (  # options with which a resumed run may differ
    *("resume", "debug", "logger", "callbacks.progress", "callbacks.last", "paths", "trainer.precision"),
    *("trainer.accelerator", "trainer.devices", "trainer.log_every_n_steps", "data.workers", "data.timeout"),
)
LONGEST = 180  # characters of a name; file systems allow 255 bytes


def name_overrides(overrides: Sequence[str]) -> str:
    """Return the name of a folder for overrides; empty if all of them are ``UNNAMED`` or ``IMPLIED``."""
    overrides = [by_place(override).lstrip("+~") for override in overrides]
    named = [override for override in overrides if not override.startswith(UNNAMED) and override not in IMPLIED]
    pairs = sorted(override.partition("=")[::2] for override in named)
    parts = [f"{key}={_shorten(key, value)}" for key, value in pairs]
    name = re.sub(r"[^\w.,=+\-\[\]]", "_", ",".join(parts))
    if len(name) > LONGEST:
        name = name[:160] + "-" + hashlib.sha1(name.encode()).hexdigest()[:12]
    return name


def _shorten(key: str, value: str) -> str:
    """Shorten a path to its last part and a hash of the whole path; return names of weights and other values as is."""
    if key not in PATH_OPTIONS or not value:
        return value
    return "+".join(_shorten_path(path.strip("'\"")) for path in split_paths(value))


def _shorten_path(text: str) -> str:
    if is_name(text):
        return text
    path = Path(os.path.expanduser(text)).resolve()
    return f"{path.name}-{hashlib.sha1(str(path).encode()).hexdigest()[:6]}"


@contextmanager
def claim_directory(config: DictConfig, directory: Path, *, first: bool = True) -> Iterator[None]:
    """Lock ``directory`` for this run, and record the configuration, the command and the commit in it.

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
                    text.write(shlex.join(["python", "-m", "src.run", *HydraConfig.get().overrides.task]) + "\n")
            yield
    except UserError:
        if new and not any((directory / outcome).exists() for outcome in ("checkpoints", "results.json")):
            shutil.rmtree(directory, ignore_errors=True)
        raise


def is_begun(config: DictConfig, directory: Path) -> bool:
    """Return True if ``directory`` holds a run of this configuration, Hydra's own node aside."""
    if not (directory / "config.yaml").exists():
        return False
    run = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    before: Any = OmegaConf.load(directory / "config.yaml")
    now: Any = OmegaConf.create(OmegaConf.to_yaml(run, resolve=True))
    for option in ("resume", "debug"):
        before[option] = now[option] = None
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
    unimportant = (*NO_EFFECT, "paths.", "hydra.", "hydra/", "data.workers", "data.timeout", "callbacks.progress")
    kept = [word for word in words if not word.lstrip("+~").startswith(unimportant)]
    return " ".join(_name_folders(word) for word in kept)


def _name_folders(override: str) -> str:
    key, equals, value = override.partition("=")
    if key not in PATH_OPTIONS:
        return shlex.quote(override)
    paths = [path.strip("'\"") for path in split_paths(value)]
    return key + equals + " ".join(path if is_name(path) else f"<{Path(path).name}>" for path in paths)


def read_commit() -> str:
    """Return the commit of the code, marked as dirty if files differ from it; 'unknown' outside a checkout."""
    try:
        git = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
