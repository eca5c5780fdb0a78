"""python -m src.run <group>=<choice> <option>=<value> ...: composes the configuration, calls the task that it names."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, to be told in one sentence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from src.config.composition import CONF, NO_CHOICE, begun, explain, finished, quoted
from src.config.options import run_task
from src.config.overrides import translate
from src.config.validation import validate
from src.errors import UserError
from src.ops.allocator import keep_freed_memory
from src.training.checkpointing import TrainingStopped

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # tips and device lists; what matters we say ourselves
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # of metrics.csv, whose rows we hand back
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter.*")  # of networks that are only counted


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose_and_call(config: DictConfig) -> None:
    """Hydra's entry: the composed configuration to the task."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    of_a_sweep = HydraConfig.get().mode is RunMode.MULTIRUN  # by a launcher that gives points no command of their own
    if of_a_sweep and begun(config, directory):
        config.resume = True
    if config.resume and finished(config, directory):
        print(f"{directory} is finished, with results.json: nothing left to do.")
        return
    try:
        validate(config)
        run_task(config, directory)
    except Exception as error:  # told here, before Hydra adds lines of its own
        _leave_nothing_empty(directory)
        if not of_a_sweep:
            _tell(error)
        raise


def main() -> None:
    """The command line; what a person can mend is told in one sentence, with exit code 2."""
    keep_freed_memory()
    try:
        arguments = translate(sys.argv[1:], sweep="hydra.mode=RUN" not in sys.argv)
        sys.argv[1:] = [quoted(argument) for argument in arguments]
        compose_and_call()
    except BaseException as error:
        if interrupt := _interrupt(error):
            print("Interrupted; the same command goes on, a training with resume=true.", file=sys.stderr)
            sys.exit(128 + getattr(interrupt, "number", signal.SIGINT))
        if isinstance(error, Exception):
            _tell(error)
        raise


def _leave_nothing_empty(directory: Path) -> None:
    """Takes back the folders that Hydra made for a run that wrote nothing."""
    for place in (directory, directory.parent, directory.parent.parent):
        try:
            place.rmdir()
        except OSError:  # not empty
            return


def _interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interruption that an error comes of: Lightning makes an exit of it, or fails at tidying up after it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        if isinstance(error, SIGTERMException):
            return TrainingStopped(signal.SIGTERM)  # before training had begun to listen to it
        error = error.__context__
    return error


def _tell(error: BaseException) -> None:
    """Leaves with one sentence where the error is a person's to mend, also where Hydra has wrapped it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    of_hydra = isinstance(error, (HydraException, OmegaConfBaseException)) or NO_CHOICE in str(error)
    if cause is None and of_hydra and isinstance(error, Exception):
        overrides = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
        cause = UserError(explain(error, overrides))
    if cause is None and isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" of {error.filename}" if error.filename else ""
        cause = UserError(f"The disk{where} is full: make room; the same command goes on, a training with resume=true.")
    if cause is not None:
        print(cause, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
