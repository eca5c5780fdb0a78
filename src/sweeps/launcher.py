"""Gives every point of a sweep a process of its own, several at a time where there are devices.

What comes of them is written down by the callback :class:`src.sweeps.callback.Study`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from src.config.composition import begun, finished, trainings_needed
from src.errors import UserError
from src.sweeps import points

RANKS = (  # what torchrun and Lightning leave in the environment; a point has ranks of its own
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS"),
)
PATIENCE = 10.0  # seconds for a process to end before it is asked less kindly


@dataclass
class Running:
    """A point whose process goes on, in a place (see :func:`places`) of its own."""

    config: DictConfig
    place: int
    log: Path
    process: subprocess.Popen[bytes]
    start: int  # bytes that the log had before
    shown: int = field(init=False)  # bytes of it that the terminal has

    def __post_init__(self) -> None:
        self.shown = self.start

    def show(self) -> None:
        """Brings what is new in the log to the terminal."""
        with self.log.open("rb") as stream:
            stream.seek(self.shown)
            new = stream.read()
        self.shown += len(new)
        sys.stdout.buffer.write(new)
        sys.stdout.buffer.flush()


class Processes(Launcher):
    """``hydra/launcher=processes``, the default.

    Args:
        at_once: how many points at a time; None is as many as the CUDA devices suffice for, and one on the CPU.
        retry: whether points that failed when the same was asked before are tried again.
    """

    def __init__(self, at_once: int | None = None, retry: bool = False) -> None:
        self.at_once, self.retry = at_once, retry

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs every point that is not finished; one that fails does not keep the others from running.

        Hydra would end a sweep at the first failure that it is told of, and make no table. So callbacks alone are
        told: they write it down, and end the command with an exit code other than 0.
        """
        setup_globals()
        folder = points.folder_of(self.config)
        configs = [self._compose(list(given), initial_job_idx + i) for i, given in enumerate(job_overrides)]
        environments = places(configs, self.at_once, visible_devices())
        free, running = list(range(len(environments))), list[Running]()
        waiting = [(config, trainings_needed(config)) for config in configs]
        with _sigterm_as_interrupt():
            try:
                while waiting or running:
                    while free and (config := _next(waiting, [point.config for point in running])):
                        waiting = [point for point in waiting if point[0] is not config]
                        with self._as(config):
                            if self._is_to_run(config, folder):
                                place = free.pop(0)
                                running.append(start(config, place, environments[place]))
                                self.context.callbacks.on_job_start(config=config, task_function=self.task_function)
                    for point in list(running):
                        code = point.process.poll()
                        if len(environments) == 1:
                            point.show()
                        if code is not None:
                            running.remove(point)
                            free.append(point.place)
                            self._tell(point.config, failure(point, code))
                    time.sleep(0.1)
            except BaseException:
                end([point.process for point in running])
                for point in running:
                    if entry := points.entry_of(folder, point.config):
                        entry.message = "Interrupted; the same command goes on."
                        entry.write(folder)
                raise
        return [JobReturn(config.hydra.overrides.task, status=JobStatus.COMPLETED) for config in configs]

    def _compose(self, overrides: list[str], number: int) -> DictConfig:
        """A point's configuration, as Hydra's own launcher makes it."""
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        with self._as(config), read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            place = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
            config.hydra.runtime.output_dir = os.path.abspath(place)
        return config

    @contextmanager
    def _as(self, config: DictConfig) -> Iterator[None]:
        """A point's configuration in the sweep's place: what its directory and its weights are called after."""
        HydraConfig.instance().set_config(config)
        try:
            yield
        finally:
            HydraConfig.instance().set_config(self.config)

    def _is_to_run(self, config: DictConfig, folder: Path) -> bool:
        """Whether a point needs a process; of others says why not."""
        directory = points.run_directory(config)
        before = points.entry_of(folder, config)
        if finished(config, directory):
            self.context.callbacks.on_job_start(config=config, task_function=self.task_function)
            self._tell(config, None)
        elif before and before.status == "failed" and not self.retry:
            self._tell(config, before.message)
        elif (directory / "config.yaml").exists() and not config.resume and not begun(config, directory):
            self.context.callbacks.on_job_start(config=config, task_function=self.task_function)
            self._tell(config, f"{directory} already holds a run of another configuration: choose another seed=<n>.")
        else:
            return True
        return False

    def _tell(self, config: DictConfig, failure: str | None) -> None:
        outcome = JobReturn(config.hydra.overrides.task, status=JobStatus.FAILED if failure else JobStatus.COMPLETED)
        outcome.return_value = UserError(failure) if failure else None
        self.context.callbacks.on_job_end(config=config, job_return=outcome)


def _next(waiting: Sequence[tuple[DictConfig, set[Path]]], running: Sequence[DictConfig]) -> DictConfig | None:
    """The first of the points that need wait for nobody: the runs whose weights they take have all ended."""
    ahead = [points.run_directory(config).resolve() for config in running]
    for config, needed in waiting:
        if not any(run.resolve() in ahead for run in needed):
            return config
        ahead.append(points.run_directory(config).resolve())
    return None


def visible_devices() -> list[str]:
    """The CUDA devices that there are for this process, as CUDA_VISIBLE_DEVICES has them."""
    if not torch.cuda.is_available():
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]


def places(configs: Sequence[DictConfig], at_once: int | None, devices: Sequence[str]) -> list[dict[str, str]]:
    """What the environments of points that run at the same time have of their own: devices, and threads.

    A place has as many devices as the most demanding point takes. Where more places are asked for than there are
    devices, they share them.
    """
    shares: list[dict[str, str]] = [{}]
    trainers = [config.trainer for config in configs]
    if devices and any(trainer.accelerator in ("auto", "gpu", "cuda") for trainer in trainers):
        taken = [len(devices) if t.devices in ("auto", -1, "-1") else t.devices for t in trainers]
        if all(isinstance(count, int) for count in taken):  # where they are given by number, all points see all
            most = min(max(taken), len(devices))
            groups = [devices[first : first + most] for first in range(0, len(devices) - most + 1, most)]
            shares = [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]
    count = min(at_once or len(shares), len(configs))
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    divided = {"OMP_NUM_THREADS": str(max(1, threads // count))} if count > 1 else {}
    return [{**shares[place % len(shares)], **divided} for place in range(count)]


def start(config: DictConfig, place: int, environment: dict[str, str]) -> Running:
    """Starts a point's process, whose output goes into its log file, and which has a process group of its own."""
    inherited = {name: value for name, value in os.environ.items() if name not in RANKS and "TORCHELASTIC" not in name}
    log = points.log_file(config)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        before = stream.tell()
        process = subprocess.Popen(
            [sys.executable, *points.arguments(config)],
            env={**inherited, **environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(config, place, log, process, before)


def failure(point: Running, code: int) -> str | None:
    """What went wrong in a point whose process has ended, in a sentence; None where nothing did."""
    if code == 0:
        return None
    _send(point.process, signal.SIGKILL)  # ranks and readers that outlive what started them
    if code < 0:
        return f"Ended by {signal.Signals(-code).name}, which the system sends where memory runs out; or a person did."
    with point.log.open("rb") as stream:
        stream.seek(point.start)
        said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.read().decode(errors="replace"))
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("wandb:")]
    return lines[-1] if lines else f"Ended with exit code {code} and without a word."


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends processes and what they have started: as Ctrl-C does, then, or where that is repeated, less kindly."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        left = [process for process in processes if process.poll() is None]
        for process in left:
            _send(process, number)
        deadline = time.monotonic() + PATIENCE
        with suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
            for process in left:
                process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        _send(process, signal.SIGKILL)  # what of a group outlives its leader


def _send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Lets SIGTERM end a sweep as Ctrl-C does: with its points."""

    def interrupt(number: int, frame: FrameType | None) -> Any:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
