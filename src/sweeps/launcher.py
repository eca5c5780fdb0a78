"""Run every point of a sweep in a process of its own, several at a time if there are devices.

The callback :class:`src.sweeps.callback.Study` records the outcome.
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

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from src.config.code_record import list_changed
from src.config.resolvers import list_trainings
from src.config.run_directory import is_begun, is_finished
from src.errors import UserError
from src.sweeps import points

RANKS = (  # set by torchrun and Lightning; a point starts ranks of its own
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS"),
)
PATIENCE = 10.0  # seconds between SIGINT, SIGTERM and SIGKILL


@dataclass
class Running:
    """A running point: its process, and its place among the environments of :func:`assign_devices`."""

    config: DictConfig
    place: int
    log: Path
    process: subprocess.Popen[bytes]
    start: int  # size of the log in bytes before this attempt
    shown: int = field(init=False)  # bytes of the log already shown in the terminal

    def __post_init__(self) -> None:
        self.shown = self.start

    def show(self) -> None:
        """Copy new output from the log to the terminal."""
        with self.log.open("rb") as stream:
            stream.seek(self.shown)
            new = stream.read()
        self.shown += len(new)
        sys.stdout.buffer.write(new)
        sys.stdout.buffer.flush()


class Processes(Launcher):
    """``hydra/launcher=processes``, the default.

    Args:
        at_once: points at a time; None: as many as the CUDA devices suffice for, one on the CPU.
        retry: try points again that failed in an earlier run of the same sweep.
    """

    def __init__(self, at_once: int | None = None, retry: bool = False) -> None:
        self.at_once, self.retry = at_once, retry

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every unfinished point; a failure does not stop the others.

        Hydra ends a sweep at the first failed job. Therefore jobs are returned as completed, and failures are reported
        to the callbacks alone, which record them and exit with a nonzero code.
        """
        setup_globals()
        folder = points.locate_sweep(self.config)
        configs = [self._compose(list(overrides), initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        environments = assign_devices(configs, self.at_once, visible_devices())
        free, running = list(range(len(environments))), list[Running]()
        waiting = [(config, list_trainings(config)) for config in configs]
        with _sigterm_as_interrupt():
            try:
                while waiting or running:
                    while free and (config := _first_ready(waiting, [point.config for point in running])):
                        waiting = [point for point in waiting if point[0] is not config]
                        with self._as(config):
                            if self._is_to_run(config, folder):
                                place = free.pop(0)
                                running.append(start_process(config, place, environments[place]))
                                self.context.callbacks.on_job_start(config=config, task_function=self.task_function)
                    for point in list(running):
                        code = point.process.poll()
                        if len(environments) == 1:
                            point.show()
                        if code is not None:
                            running.remove(point)
                            free.append(point.place)
                            self._report(point.config, describe_failure(point, code))
                    time.sleep(0.1)
            except BaseException:
                terminate([point.process for point in running])
                for point in running:
                    if status := points.read_status(folder, point.config):
                        status.message = "Interrupted. Run the same command again to continue."
                        status.write(folder)
                raise
        return [JobReturn(config.hydra.overrides.task, status=JobStatus.COMPLETED) for config in configs]

    def _compose(self, overrides: list[str], number: int) -> DictConfig:
        """Compose a point's configuration as Hydra's basic launcher does."""
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        with self._as(config), read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            place = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
            config.hydra.runtime.output_dir = os.path.abspath(place)
        return config

    @contextmanager
    def _as(self, config: DictConfig) -> Iterator[None]:
        """Make a point's configuration the current one: resolvers of directories and weights read it."""
        HydraConfig.instance().set_config(config)
        try:
            yield
        finally:
            HydraConfig.instance().set_config(self.config)

    def _is_to_run(self, config: DictConfig, folder: Path) -> bool:
        """Return True if a point needs a process; report the others as finished or failed."""
        directory = points.locate_run(config)
        before = points.read_status(folder, config)
        if is_finished(config, directory):
            self.context.callbacks.on_job_start(config=config, task_function=self.task_function)
            self._report(config, None)
        elif before and before.status == "failed" and not self.retry:
            self._report(config, before.message)
        elif (directory / "config.yaml").exists() and not config.resume and not is_begun(config, directory):
            self.context.callbacks.on_job_start(config=config, task_function=self.task_function)
            other = " and ".join(list_changed(directory)) or "another configuration"
            kind = f"an earlier state of {other}" if list_changed(directory) else other
            self._report(
                config, f"{directory} holds a run with {kind}: choose another seed=<n> or paths.runs=<folder>."
            )
        else:
            return True
        return False

    def _report(self, config: DictConfig, failure: str | None) -> None:
        outcome = JobReturn(config.hydra.overrides.task, status=JobStatus.FAILED if failure else JobStatus.COMPLETED)
        outcome.return_value = UserError(failure) if failure else None
        self.context.callbacks.on_job_end(config=config, job_return=outcome)


def _first_ready(waiting: Sequence[tuple[DictConfig, set[Path]]], running: Sequence[DictConfig]) -> DictConfig | None:
    """Return the first point that does not depend on the weights of a waiting or running one."""
    ahead = [points.locate_run(config).resolve() for config in running]
    for config, needed in waiting:
        if not any(run.resolve() in ahead for run in needed):
            return config
        ahead.append(points.locate_run(config).resolve())
    return None


def visible_devices() -> list[str]:
    """List the CUDA devices of this process as in CUDA_VISIBLE_DEVICES."""
    import torch  # only here: Hydra imports launchers at every start

    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def assign_devices(configs: Sequence[DictConfig], at_once: int | None, devices: Sequence[str]) -> list[dict[str, str]]:
    """Return the environment variables (devices, threads) of each of the places that run points at the same time.

    A place has as many devices as the most demanding point needs. Places share devices if there are too few.
    """
    shares: list[dict[str, str]] = [{}]
    trainers = [config.trainer for config in configs]
    if devices and any(trainer.accelerator in ("auto", "gpu", "cuda") for trainer in trainers):
        taken = [len(devices) if t.devices in ("auto", -1, "-1") else t.devices for t in trainers]
        if all(isinstance(count, int) for count in taken):  # given by index, all points see all devices
            most = min(max(taken), len(devices))
            groups = [devices[first : first + most] for first in range(0, len(devices) - most + 1, most)]
            shares = [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]
    count = min(at_once or len(shares), len(configs))
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    divided = {"OMP_NUM_THREADS": str(max(1, threads // count))} if count > 1 else {}
    return [{**shares[place % len(shares)], **divided} for place in range(count)]


def start_process(config: DictConfig, place: int, environment: dict[str, str]) -> Running:
    """Start a point's process in a process group of its own, with its output in the log file."""
    inherited = {name: value for name, value in os.environ.items() if name not in RANKS and "TORCHELASTIC" not in name}
    log = points.locate_log(config)
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = points.build_arguments(config)
    if not (points.locate_run(config) / "config.yaml").exists():  # a fresh one resumes nothing
        arguments.remove("resume=true")
    with log.open("ab") as stream:
        before = stream.tell()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**inherited, **environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(config, place, log, process, before)


def describe_failure(point: Running, code: int) -> str | None:
    """Describe the failure of an ended process; None if it succeeded."""
    if code == 0:
        return None
    _send(point.process, signal.SIGKILL)  # ranks and data workers that outlive their parent
    if code < 0:
        return f"Ended by {signal.Signals(-code).name}; the system sends SIGKILL if memory runs out."
    with point.log.open("rb") as stream:
        stream.seek(point.start)
        output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.read().decode(errors="replace"))
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith((" ", "wandb:"))]
    return lines[-1] if lines else f"Ended with exit code {code} and no output."


def terminate(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminate process groups with SIGINT, then SIGTERM, then SIGKILL; a second Ctrl-C skips the wait."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        left = [process for process in processes if process.poll() is None]
        for process in left:
            _send(process, number)
        deadline = time.monotonic() + PATIENCE
        with suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
            for process in left:
                process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        _send(process, signal.SIGKILL)  # group members that outlive the leader


def _send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that the points of the sweep end with it."""

    def interrupt(number: int, frame: FrameType | None) -> Any:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
