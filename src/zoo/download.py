"""Download weights into the cache: continued where they were cut off, checked before they get their name."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from urllib3.exceptions import NewConnectionError

from src.atomic import fsync
from src.errors import CheckpointError
from src.zoo import cache
from src.zoo.catalogue import Entry

CONSOLE = Console(stderr=True, markup=False, highlight=False)  # standard output may be a video
TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two packets
RETRIES = 3  # of an address, in a row without a new byte
PAUSE = 0.5  # seconds before the first retry, doubled for each further one
BUSY = (408, 425, 429)  # answers that may change soon, as do those from 500 on
BLOCK = 2**16  # bytes; a transfer that is cut off loses less than one
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # from file systems without them
PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")


class _AddressError(Exception):
    """An address that does not provide the file; the message ends "<host> ..."."""


class _TransferError(Exception):
    """A transfer that another attempt may complete."""

    def __init__(self, message: str, retries: int | None = None) -> None:
        super().__init__(message)
        self.retries = RETRIES if retries is None else retries


def fetch(entry: Entry) -> Path:
    """Download the file of an entry into the cache, unless another process does so meanwhile.

    Raises:
        CheckpointError: no address provides the file, or the cache cannot be written.
    """
    folder = cache.folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(entry, folder):
            return cache.find_file(entry) or _try_addresses(entry, folder / entry.cached)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(
            f"{entry.name} cannot be written into the cache {folder} ({reason}): free or unlock it, or set "
            "ZEITLUPE_CACHE=<another folder>."
        ) from error


def _lock(entry: Entry, folder: Path) -> AbstractContextManager[object]:
    """Wait for the processes that fetch the same entry; where files cannot be locked, for none."""
    lock = FileLock(folder / f".{entry.cached}.lock")
    try:
        try:
            return lock.acquire(timeout=0.1)
        except Timeout:
            CONSOLE.print(f"Another process fetches {entry.name}: waiting.", soft_wrap=True)
            return lock.acquire()
    except NotImplementedError:
        return nullcontext()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return nullcontext()


def _try_addresses(entry: Entry, target: Path) -> Path:
    faults = []
    for address in (*entry.addresses, *entry.by_hand):
        try:
            _download(entry, address, target)
            return target
        except _AddressError as fault:
            faults.append(f"{urlsplit(address).netloc} {fault}")
    tried = "; ".join(faults) or "no address is known"
    source = next(iter((*entry.addresses, *entry.by_hand)), entry.file or "the file")
    raise CheckpointError(
        f"{entry.name} cannot be fetched ({tried}): download {source} in a browser or elsewhere ({entry.identity}) and "
        f"put the file, under any name, into {target.parent}."
    )


def _download(entry: Entry, address: str, target: Path) -> None:
    """Download one address to ``target``.

    Raises:
        _AddressError: it does not provide the file.
    """
    part = target.with_name(f"{target.name}.part")
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    host = urlsplit(address).netloc
    if not CONSOLE.is_terminal:
        CONSOLE.print(f"Fetching {entry.name} from {host}", soft_wrap=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False), *columns, console=CONSOLE, disable=not CONSOLE.is_terminal
    )
    with bar, requests.Session() as session:
        session.headers.update({"Accept-Encoding": "identity", "User-Agent": "zeitlupe"})
        bar.add_task(f"{entry.name} from {host}", total=entry.size)
        while True:
            continued = _complete(entry, session, address, part, bar)
            found = cache.digest(part)
            if entry.matches(found):
                break
            _discard(part)
            if not continued:
                raise _AddressError(f"has another file (sha256 {found['sha256']}), which was removed")
    os.replace(part, target)
    fsync(target.parent)
    _discard(part)
    cache.remember(target, found)


def _complete(entry: Entry, session: requests.Session, address: str, part: Path, bar: Progress) -> bool:
    """Transfer what ``part`` lacks, with retries; return whether it goes on from an earlier command's part."""
    continued = _size(part) > 0
    attempts, longest = 0, _size(part)
    while True:
        try:
            continued = _transfer(entry, session, address, part, bar) and continued
            return continued
        except _TransferError as error:
            attempts = attempts + 1 if _size(part) <= longest else 1
            longest = max(longest, _size(part))
            if attempts > error.retries:
                raise _AddressError(str(error)) from error
            time.sleep(PAUSE * 2 ** (attempts - 1))


def _transfer(entry: Entry, session: requests.Session, address: str, part: Path, bar: Progress) -> bool:
    """Transfer what ``part`` lacks in one request; return whether the server went on where it ends.

    Raises:
        _TransferError, _AddressError: it is still incomplete.
    """
    start, headers = _size(part), dict[str, str]()
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator := _recall(part, address):
            headers["If-Range"] = validator
    try:
        with session.get(address, headers=headers, stream=True, timeout=TIMEOUT) as response:
            return _receive(entry, response, address, part, start, bar)
    except requests.ConnectionError as error:
        refused = isinstance(getattr(next(iter(error.args), None), "reason", None), NewConnectionError)
        raise _TransferError(_explain(error), retries=1 if refused else None) from error
    except (requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _TransferError(_explain(error)) from error
    except requests.RequestException as error:
        raise _AddressError(_explain(error)) from error


def _receive(entry: Entry, response: requests.Response, address: str, part: Path, start: int, bar: Progress) -> bool:
    status = response.status_code
    if status in BUSY or status >= 500:
        raise _TransferError(f"answers {status} {response.reason}")
    span = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+)", response.headers.get("Content-Range", ""))
    if status == 416 and span and int(span[2]) == start:
        return True  # nothing is left
    if status == 416 or (status == 206 and not (span and span[1] and int(span[1]) == start)):
        _discard(part)  # the file has changed, or the server counts otherwise
        raise _TransferError(f"answers {status} to a continued download")
    if status not in (200, 206):
        raise _AddressError(f"answers {status} {response.reason}")
    if "html" in response.headers.get("Content-Type", ""):
        raise _AddressError("answers with a web page")
    resumed = status == 206
    length = response.headers.get("Content-Length")
    total = int(span[2]) if span else int(length) if length and length.isdigit() else None
    if entry.size and total and total != entry.size:
        raise _AddressError(f"has a file of {total:,} bytes, not {entry.size:,}")
    blocks = response.iter_content(BLOCK)
    block = next(blocks, b"")
    if not resumed and block[:64].lstrip().lower().startswith(PAGES):
        raise _AddressError("answers with a web page")
    size = start if resumed else 0
    with part.open("ab" if resumed else "wb") as stream:
        if not resumed:
            _remember(part, address, response)
        bar.update(bar.task_ids[0], total=total or entry.size, completed=size)
        while block:
            stream.write(block)
            size += len(block)
            bar.update(bar.task_ids[0], completed=size)
            if size > (entry.size or total or cache.LARGEST):
                raise _AddressError("sends more bytes than the file has")
            block = next(blocks, b"")
        stream.flush()
        os.fsync(stream.fileno())
    if total and size < total:
        raise _TransferError(f"ended after {size:,} of {total:,} bytes")
    return resumed


def _explain(error: requests.RequestException) -> str:
    """Describe an error in the words after a host's name."""
    text = str(error)
    if isinstance(error, requests.exceptions.ProxyError):
        return "cannot be reached through the proxy"
    if isinstance(error, requests.exceptions.SSLError):
        return "has no valid certificate"
    if isinstance(error, requests.Timeout) or "timed out" in text.lower():
        return f"does not answer within {TIMEOUT[1]:g} s"
    if isinstance(error, requests.TooManyRedirects):
        return "redirects without end"
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "aborted" in text:
        return "ended the transfer early"
    cause = re.search(r"(?:\[Errno -?\d+\] ?)([A-Z][\w ]+)|(Failed to resolve)", text)
    return f"cannot be reached ({(cause[1] or 'no such host').lower()})" if cause else "cannot be reached"


# --- the part, and its version on the server ----------------------------------------------------------------------


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _about(part: Path) -> Path:
    return part.with_name(f".{part.name}.json")


def _remember(part: Path, address: str, response: requests.Response) -> None:
    """Note the version of the file that a part belongs to."""
    tag = response.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified")
    _about(part).write_text(json.dumps({"address": address, "validator": validator}))


def _recall(part: Path, address: str) -> str | None:
    """Return the version of a part from ``address``; None for one from elsewhere: its hash decides."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        about = json.loads(_about(part).read_text())
        return about["validator"] if about["address"] == address else None
    return None


def _discard(part: Path) -> None:
    for file in (part, _about(part)):
        file.unlink(missing_ok=True)
