"""Run commands in processes forked from one that has imported the suite, which saves each some seconds.

Otherwise they are as those of ``python -m src.run``: arguments, folder, environment and output of their own.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[1]


def call(
    *arguments: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m src.run <arguments>`` and return its exit code and output.

    Args:
        arguments: options of the command line.
        cwd: working folder.
        env: environment; default: this process's.
        timeout: seconds after which the command is killed.

    Raises:
        subprocess.TimeoutExpired: the command was killed.
    """
    server, command = _start_server(), [*map(str, arguments)]
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        streams = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        request = {"arguments": command, "cwd": str(cwd), "env": dict(env or os.environ), "streams": streams}
        print(json.dumps(request), file=server.stdin, flush=True)
        pid = int(server.stdout.readline())
        ended, _, _ = select.select([server.stdout], [], [], timeout)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        code = int(server.stdout.readline())
        said = [Path(stream).read_text(encoding="utf-8", errors="replace") for stream in streams]
    if not ended:
        raise subprocess.TimeoutExpired(command, timeout, *said)
    return subprocess.CompletedProcess(command, code, *said)


@functools.cache
def _start_server() -> subprocess.Popen[str]:
    """Start the process that forks, once for a process of tests; it ends with that one's pipe."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.command_line"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.kill)
    return server


def _serve(requests: TextIO, replies: TextIO) -> None:
    """Fork a process for each request; reply with its number, and with its exit code when it has ended."""
    for module in pkgutil.walk_packages([str(ROOT / "src")], "src."):
        with suppress(ImportError):  # Triton, without a GPU
            importlib.import_module(module.name)
    for line in requests:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become_command(**request)
        print(pid, file=replies, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=replies, flush=True)


def _become_command(arguments: list[str], cwd: str, env: dict[str, str], streams: list[str]) -> Any:
    """Run the command in this forked process, and end it as the interpreter would."""
    os.setsid()
    for descriptor, path in enumerate([os.devnull, *streams]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8") for number in (1, 2))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv[1:] = arguments
    sys.modules.pop("src.run", None)  # to be run under another name
    code: Any = 0
    try:
        import torch

        torch.set_num_threads(int(env.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
        runpy.run_module("src.run", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with suppress(Exception):
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    _serve(sys.stdin, os.fdopen(os.dup(1), "w"))
