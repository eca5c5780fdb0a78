"""Readers remember decoders that hang."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from src.data.readers import Readers
from src.errors import VideoError
from src.video.decode_timeout import DecodeTimeoutError, Watchdog
from src.video.reader import open_video


def test_an_abandoned_decoder_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe without a writer blocks whoever opens it."""
    pipe = tmp_path / "stuck.mp4"
    os.mkfifo(pipe)
    monkeypatch.setattr("src.data.splits.open_video", lambda path, **options: open_video(path, timeout=0.5, **options))
    readers = Readers()
    with pytest.raises(DecodeTimeoutError, match=r"made no progress for 0.5 s"):
        readers.read(pipe, [0])
    begin = time.monotonic()
    with pytest.raises(VideoError, match=r"made no progress for 0.5 s"):
        readers.read(pipe, [0])
    assert time.monotonic() - begin < 0.2
    with pytest.raises(DecodeTimeoutError):
        Watchdog(pipe, 0.1).run(lambda: time.sleep(5))
