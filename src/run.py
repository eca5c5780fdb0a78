"""python -m src.run <group>=<choice> <option>=<value> ...: compose the configuration and run its task."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let report_error format errors instead of Hydra

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src.config.composition import CONF
from src.config.error_report import report_error
from src.config.options import run_task
from src.config.overrides import quote_paths, refuse_other_data, translate
from src.config.own_code import open_own_code
from src.config.resuming import expand_resume
from src.config.run_directory import is_begun, is_finished
from src.config.validation import validate
from src.interruption import INTERRUPTED, Terminated
from src.ops.allocator import keep_freed_memory

warnings.filterwarnings("ignore", message=".*LeafSpec.*")
warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # metrics.csv, which we continue
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter.*")  # networks that are only counted


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose_and_call(config: DictConfig) -> None:
    """Run the task of the configuration that Hydra has composed."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    # a launcher that runs sweep points in-process, not as separate commands
    in_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    if in_sweep and is_begun(config, directory):
        config.resume = True
    if config.resume and is_finished(config, directory):
        print(f"{directory} is finished, with results.json: nothing left to do.")
        return
    try:
        packages = open_own_code(config)  # before anything of it is imported
        validate(config, HydraConfig.get().overrides.task)
        config.trust = packages
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # after its import; no tips, no device lists
        run_task(config, directory)
    except Exception as error:  # reported here, before Hydra adds lines of its own
        _remove_empty(directory)
        if not in_sweep and report_error(error, sys.argv[1:], debug=bool(config.debug)):
            sys.exit(2)
        raise


def _terminate(number: int, frame: Any) -> NoReturn:
    raise Terminated


def main() -> None:
    """Run the command line. Errors that the user can mend end with one message and exit code 2."""
    keep_freed_memory()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        typed = sys.argv[1:]
        if "--hydra-help" in typed:  # which knows Hydra's own options alone
            typed = [argument for argument in typed if argument.startswith(("-", "hydra"))]
        typed = expand_resume(typed)
        arguments = translate(typed, sweep="hydra.mode=RUN" not in typed)
        refuse_other_data(arguments)
        sys.argv[1:] = [quote_paths(argument) for argument in arguments]
        compose_and_call()
    except BaseException as error:
        if number := _find_signal(error):
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(128 + number)
        if isinstance(error, Exception) and report_error(error, sys.argv[1:]):
            sys.exit(2)
        raise


def _remove_empty(directory: Path) -> None:
    """Remove the folders that Hydra has made for a run that wrote nothing."""
    for folder in (directory, directory.parent, directory.parent.parent):
        try:
            folder.rmdir()
        except OSError:  # not empty
            return


def _find_signal(error: BaseException | None) -> int | None:
    """Return the signal behind an error; Lightning turns it into an exit or a plain KeyboardInterrupt, or fails."""
    found = None
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            found = int(getattr(error, "number", found or signal.SIGINT))
        if type(error).__name__ == "SIGTERMException":  # Lightning's, before training handles the signal itself
            return int(signal.SIGTERM)
        error = error.__context__
    return found


if __name__ == "__main__":
    main()
