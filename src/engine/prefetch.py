"""Work in threads beside the network's: frames are read before they are needed, and written while it goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Full, Queue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
PATIENCE = 0.1  # seconds after which a thread that waits looks whether it is still wanted
DEPTH = 4  # items that wait
END = object()


def prefetch(items: Iterable[T], depth: int = DEPTH) -> Iterator[T]:
    """The same items, made in a thread of their own, up to ``depth`` before they are asked for.

    What goes wrong there is raised here, behind the items before it. When this is closed, so is ``items``.
    """
    queue: Queue[Any] = Queue(depth)
    done = threading.Event()

    def offer(item: Any) -> None:
        while not done.is_set():
            try:
                return queue.put(item, timeout=PATIENCE)
            except Full:
                continue

    def run() -> None:
        source = iter(items)
        try:
            for item in source:
                offer((item, None))
                if done.is_set():
                    break
        except BaseException as error:
            offer((None, error))
        finally:
            if hasattr(source, "close"):
                source.close()
            offer(END)

    thread = threading.Thread(target=run, daemon=True, name="reading ahead")
    thread.start()
    try:
        while (taken := queue.get()) is not END:
            item, error = taken
            if error is not None:
                raise error
            del taken
            yield item
    finally:
        done.set()
        thread.join()


class BackgroundWriter(Generic[T]):
    """Does ``work`` on what it is given, in order, in a thread of its own; to be used in a ``with`` statement.

    At most ``depth`` items wait. What goes wrong there is raised at the next :meth:`put`, or on leaving.
    """

    def __init__(self, work: Callable[[T], None], depth: int = DEPTH) -> None:
        self._work, self._queue = work, Queue[Any](depth)
        self._error: BaseException | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="writing behind")

    def __enter__(self) -> BackgroundWriter[T]:
        self._thread.start()
        return self

    def put(self, item: T) -> None:
        """Gives ``item`` to the thread, waiting while it is too far behind."""
        while self._error is None:
            try:
                return self._queue.put(item, timeout=PATIENCE)
            except Full:
                continue
        raise self._error

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._abandoned = kind is not None
        while self._thread.is_alive():
            try:
                self._queue.put(END, timeout=PATIENCE)
                break
            except Full:
                continue
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not END:
                if self._abandoned:
                    continue
                self._work(item)
        except BaseException as error:
            self._error = error
