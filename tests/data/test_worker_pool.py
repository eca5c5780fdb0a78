"""Expendable processes: crashes and hangs cost one job, slow jobs are waited for."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import pytest

from src.data.worker_pool import map_isolated

pytestmark = pytest.mark.long


def work(what: str) -> str:
    if what == "crash":
        os.kill(os.getpid(), signal.SIGABRT)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "leave":
        os._exit(3)
    if what == "stuck":
        ctypes.PyDLL(None).sleep(1000)  # holds the interpreter's lock
    if what == "slow":
        time.sleep(8)
    return what.upper()


def describe_loss(job: str, reason: str) -> str:
    return f"{job}: {reason}"


def test_a_job_that_kills_its_process_costs_no_other() -> None:
    jobs = ["a", "crash", "b", "killed", "slow", "leave", "stuck", "c", "d"]
    begin = time.monotonic()
    outcomes = [*map_isolated(work, jobs, 2, on_loss=describe_loss, time_limit=10)]
    assert sorted(outcomes) == sorted(
        [
            "A",
            "crash: was ended by SIGABRT",
            "B",
            "killed: was killed, most likely because memory ran out",
            "SLOW",
            "leave: exited with code 3",
            "stuck: gave no sign of life for 10 s",
            "C",
            "D",
        ]
    )
    assert time.monotonic() - begin < 150
    assert [*map_isolated(work, [], 2, on_loss=describe_loss)] == []


def test_a_slow_job_with_heartbeats_is_waited_for() -> None:
    assert [*map_isolated(work, ["slow"], 1, on_loss=describe_loss, time_limit=5)] == ["SLOW"]


def test_closing_the_iterator_ends_the_processes() -> None:
    outcomes = map_isolated(number, [0, 1, 1, 1], 2, on_loss=fail)
    first = next(outcomes)
    outcomes.close()
    deadline = time.monotonic() + 30
    while True:
        try:
            os.kill(first, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)


def number(seconds: int) -> int:
    time.sleep(seconds)
    return os.getpid()


def fail(job: int, reason: str) -> int:
    raise AssertionError(reason)
