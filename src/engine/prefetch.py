"""Background threads: frames are read ahead of the network and written behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Full, Queue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.1  # after which a waiting thread checks for cancellation
DEPTH = 4  # items in a queue
END = object()


def prefetch(items: Iterable[T], depth: int = DEPTH) -> Iterator[T]:
    """Iterate ``items`` in a thread, up to ``depth`` items ahead.

    An error in the thread is raised here, after the items before it. Closing this generator closes ``items``.
    """
    queue: Queue[Any] = Queue(depth)
    done = threading.Event()

    def put(item: Any) -> None:
        while not done.is_set():
            try:
                return queue.put(item, timeout=POLL_SECONDS)
            except Full:
                continue

    def run() -> None:
        source = iter(items)
        try:
            for item in source:
                put((item, None))
                if done.is_set():
                    break
        except BaseException as error:
            put((None, error))
        finally:
            if hasattr(source, "close"):
                source.close()
            put(END)

    thread = threading.Thread(target=run, daemon=True, name="reading ahead")
    thread.start()
    try:
        while (entry := queue.get()) is not END:
            item, error = entry
            if error is not None:
                raise error
            del entry
            yield item
    finally:
        done.set()
        thread.join()


class BackgroundWriter(Generic[T]):
    """Applies ``work`` to items, in order, in a thread; a context manager.

    The queue holds at most ``depth`` items. An error in the thread is raised by the next :meth:`put`, or on exit.
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
        """Queue ``item``; block while the queue is full."""
        while self._error is None:
            try:
                return self._queue.put(item, timeout=POLL_SECONDS)
            except Full:
                continue
        raise self._error

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._abandoned = kind is not None
        while self._thread.is_alive():
            try:
                self._queue.put(END, timeout=POLL_SECONDS)
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
