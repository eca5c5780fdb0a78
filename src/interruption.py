"""Signals that stop a command, and a limit on the time until it has stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

INTERRUPTED = "Interrupted. Run the same command again to continue (for training, add resume=true)."
STOP_SECONDS = 5.0  # from a signal to the end; process managers kill after ten


class Terminated(KeyboardInterrupt):
    """SIGTERM: stop as on Ctrl-C."""

    number = signal.SIGTERM


@contextmanager
def limit_stopping(
    children: Callable[[], Sequence[subprocess.Popen[bytes]]] = tuple, seconds: float = STOP_SECONDS
) -> Iterator[None]:
    """End this process, and its children, ``seconds`` after SIGINT or SIGTERM if it has not ended by then.

    Python handles a signal between two instructions of the main thread, and a large operation of a network or the last
    frames of a slow encoder can hold that up for minutes. Only for work that can be killed at any time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    finished = threading.Event()

    def watch() -> None:
        while number := ours.recv(1):  # Python writes the number as soon as the signal arrives
            if number[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if not finished.wait(seconds):
                os.write(2, f"{INTERRUPTED}\n".encode())
                for child in children():
                    child.terminate()
                os._exit(128 + number[0])

    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True, name="stopping in time").start()
    try:
        yield
    except KeyboardInterrupt:
        raise  # the limit holds for all that follows
    except BaseException:
        finished.set()
        raise
    else:
        finished.set()
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()
