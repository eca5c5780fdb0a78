"""Weights come from a real server on this machine: whole, cut off, wrong, slow, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.errors import CheckpointError
from src.zoo import cache, download
from src.zoo.catalogue import Entry
from tests.zoo.server import Server, give, in_turn, redirect, refuse, serve, show_page

ROOT = Path(__file__).resolve().parents[2]
DATA = random.Random(0).randbytes(300_000)
CUT = 2 * download.BLOCK
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The server; the cache is a folder of its own, and nobody waits for long."""
    monkeypatch.setenv("ZEITLUPE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(download, "TIMEOUT", (1.0, 0.5))
    with serve() as server:
        yield server


def entry(*addresses: str, **other) -> Entry:
    values = {"name": "tiny", "network": "none", "task": "a test", "file": "tiny.pth", "sha256": SHA256, **other}
    return Entry(addresses=list(addresses), **values)


def content(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def complaint(one: Entry) -> str:
    with pytest.raises(CheckpointError) as caught:
        download.fetch(one)
    return str(caught.value)


def ranges(server: Server) -> list[str | None]:
    return [headers.get("Range") for _, headers in server.requests]


def test_a_whole_file_gets_a_name_with_its_hash(server, tmp_path):
    server.answers["/a"] = give(DATA)
    path = download.fetch(entry(server.url("/a")))
    assert path == tmp_path / "cache" / f"tiny-{SHA256[:8]}.pth"
    assert path.read_bytes() == DATA
    assert content(path.parent) == [path.name]
    assert cache.find_file(entry()) == path
    assert download.fetch(entry()) == path  # no address needed
    assert len(server.requests) == 1


@pytest.mark.parametrize("identity", [{"sha256_prefix": SHA256[:8]}, {"git_blob": None}])
def test_a_prefix_or_a_blob_id_identifies_a_file_too(identity, server):
    if "git_blob" in identity:
        identity = {"git_blob": hashlib.sha1(b"blob 300000\0" + DATA).hexdigest()}
    server.answers["/a"] = give(DATA)
    one = entry(server.url("/a"), sha256=None, **identity)
    assert download.fetch(one).read_bytes() == DATA
    server.answers["/a"] = give(DATA[::-1])
    cache.find_file(one).unlink()
    assert "has another file" in complaint(one)


def test_a_transfer_goes_on_where_it_was_cut_off(server):
    server.answers["/a"] = give(DATA, cuts=CUT)
    assert download.fetch(entry(server.url("/a"))).read_bytes() == DATA
    assert ranges(server) == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]


def test_so_does_the_next_command(server, tmp_path):
    server.answers["/a"] = in_turn(give(DATA, cuts=CUT), refuse(503))
    assert "answers 503" in complaint(entry(server.url("/a")))
    assert content(tmp_path / "cache") == [f"tiny-{SHA256[:8]}.pth.part"]
    server.answers["/a"] = give(DATA)
    server.requests.clear()
    assert download.fetch(entry(server.url("/a"))).read_bytes() == DATA
    assert ranges(server) == [f"bytes={CUT}-"]
    assert server.requests[0][1]["If-Range"].startswith('"')


def test_another_address_completes_what_one_began(server):
    server.answers |= {"/a": in_turn(give(DATA, cuts=CUT), refuse(503)), "/b": give(DATA)}
    assert download.fetch(entry(server.url("/a"), server.url("/b"))).read_bytes() == DATA
    assert ranges(server)[-1] == f"bytes={CUT}-"


def test_a_server_without_ranges_starts_anew(server):
    server.answers["/a"] = in_turn(give(DATA, cuts=CUT), give(DATA, ranges=False))
    assert download.fetch(entry(server.url("/a"))).read_bytes() == DATA
    assert ranges(server) == [None, f"bytes={CUT}-"]


def test_a_file_that_changed_meanwhile_starts_anew(server):
    server.answers["/a"] = in_turn(give(DATA[::-1], cuts=CUT), give(DATA))
    assert download.fetch(entry(server.url("/a"))).read_bytes() == DATA
    assert len(server.requests) == 2  # If-Range, so the whole file came at once


def test_a_part_of_another_file_starts_anew_even_if_its_server_does_not_tell(server, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    part = folder / f"tiny-{SHA256[:8]}.pth.part"
    server.answers["/a"] = give(DATA)
    for before in (DATA[::-1][:1000], DATA + b"more"):  # its hash is wrong, or the server has no such range
        part.write_bytes(before)
        path = download.fetch(entry(server.url("/a")))
        assert path.read_bytes() == DATA
        path.unlink()


def test_a_complete_part_only_gets_its_name(server, tmp_path):
    server.answers["/a"] = give(DATA)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"tiny-{SHA256[:8]}.pth.part").write_bytes(DATA)
    assert download.fetch(entry(server.url("/a"))).read_bytes() == DATA


def test_a_file_with_another_hash_is_removed(server, tmp_path):
    server.answers["/a"] = give(DATA[:-1] + b"x")
    said = complaint(entry(server.url("/a")))
    assert "has another file" in said
    assert "was removed" in said
    assert SHA256 in said
    assert content(tmp_path / "cache") == []


def test_a_file_of_another_size_is_not_even_transferred(server, tmp_path):
    server.answers["/a"] = give(DATA + b"x")
    assert "has a file of 300,001 bytes, not 300,000" in complaint(entry(server.url("/a"), size=len(DATA)))
    assert content(tmp_path / "cache") == []


def test_the_second_address_serves_where_the_first_has_nothing(server):
    server.answers["/b"] = give(DATA)
    assert download.fetch(entry(server.url("/a"), server.url("/b"))).read_bytes() == DATA
    assert [path for path, _ in server.requests] == ["/a", "/b"]


def test_redirects_are_followed_but_not_for_ever(server):
    server.answers |= {"/a": redirect("/b"), "/b": redirect(server.url("/c")), "/c": give(DATA), "/d": redirect("/d")}
    assert "redirects without end" in complaint(entry(server.url("/d")))
    assert download.fetch(entry(server.url("/a"))).read_bytes() == DATA


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_no_file(kind, server, tmp_path):
    server.answers["/a"] = show_page(kind)
    assert "answers with a web page" in complaint(entry(by_hand=[server.url("/a")]))
    assert content(tmp_path / "cache") == []
    part = tmp_path / "cache" / f"tiny-{SHA256[:8]}.pth.part"
    part.write_bytes(DATA[:1000])  # of an earlier command
    assert "answers with a web page" in complaint(entry(by_hand=[server.url("/a")]))
    assert part.read_bytes() == DATA[:1000]


def test_a_busy_server_is_tried_again(server):
    server.answers["/a"] = in_turn(refuse(503), refuse(429), give(DATA))
    assert download.fetch(entry(server.url("/a"))).read_bytes() == DATA


def test_a_slow_server_is_left_after_some_tries(server):
    server.answers["/a"] = give(DATA, delay=3)
    start = time.monotonic()
    assert "does not answer within 0.5 s" in complaint(entry(server.url("/a")))
    assert time.monotonic() - start < 3
    assert len(server.requests) == 1 + download.RETRIES
    server.answers["/a"] = give(DATA, delay=0.2)
    assert download.fetch(entry(server.url("/a"))).read_bytes() == DATA


def test_without_network_one_sentence_says_how_to_do_it_by_hand(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/tiny.pth"
    said = complaint(entry(address))
    assert "cannot be reached (connection refused)" in said
    assert said.count(". ") == 0  # one sentence
    assert all(part in said for part in (address, SHA256, str(tmp_path / "cache")))


def test_a_dead_proxy_is_named(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.answers["/a"] = give(DATA)
    assert "cannot be reached through the proxy" in complaint(entry(server.url("/a")))
    assert not server.requests
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert download.fetch(entry(server.url("/a"))).read_bytes() == DATA


def test_two_processes_fetch_a_file_once(server, tmp_path):
    server.answers["/a"] = give(DATA, delay=1.5)
    code = (
        "import sys; from src.zoo import download; from src.zoo.catalogue import Entry; "
        "print(download.fetch(Entry(name='tiny', network='none', task='a test', file='tiny.pth', "
        f"addresses=[{server.url('/a')!r}], sha256={SHA256!r})))"
    )
    command = [sys.executable, "-c", code]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {out.strip() for out, _ in said} == {str(tmp_path / "cache" / f"tiny-{SHA256[:8]}.pth")}
    assert len(server.requests) == 1


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    server.answers["/a"] = give(DATA)
    (tmp_path / "taken").write_text("a file")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        monkeypatch.setenv("ZEITLUPE_CACHE", str(folder))
        said = complaint(entry(server.url("/a")))
        assert f"cannot be written into the cache {folder}" in said
        assert "ZEITLUPE_CACHE=" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_what_lies_in_a_read_only_cache_is_found(server, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "mine.pth").write_bytes(DATA)
    folder.chmod(0o500)
    assert cache.find_file(entry()) == folder / "mine.pth"
    assert "cannot be written into the cache" in complaint(entry(sha256="0" * 64))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(server, tmp_path):
    server.answers["/a"] = give(DATA)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"tiny-{SHA256[:8]}.pth.part").symlink_to("/dev/full")
    assert "No space left on device" in complaint(entry(server.url("/a")))


def test_a_file_put_there_by_hand_has_any_name(server, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "download (1)").write_bytes(DATA)
    (folder / "other.pth").write_bytes(DATA[::-1])
    (folder / "broken").symlink_to(folder / "nowhere")
    assert cache.find_file(entry()) == folder / "download (1)"
    assert download.fetch(entry(server.url("/a"))) == folder / "download (1)"
    assert not server.requests


def test_files_are_hashed_once_and_only_those_of_the_right_size(server, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "mine.pth").write_bytes(DATA)
    (folder / "large.pth").write_bytes(DATA * 2)
    assert cache.find_file(entry(size=len(DATA))) == folder / "mine.pth"
    known = json.loads((folder / cache.MEMORY).read_text())
    assert known.keys() == {"mine.pth"}
    known["mine.pth"]["sha256"] = "0" * 64  # a note that cannot come from hashing
    (folder / cache.MEMORY).write_text(json.dumps(known))
    assert cache.find_file(entry()) is None
    assert cache.digest(folder / "mine.pth", anew=True)["sha256"] == SHA256
    (folder / cache.MEMORY).write_text("no JSON")
    assert cache.find_file(entry()) == folder / "mine.pth"


def test_files_in_a_cache_that_cannot_be_written_are_hashed_once_in_a_process(server, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "mine.pth").write_bytes(DATA)
    (folder / cache.MEMORY).mkdir()  # no note can be written, not even by root
    found = cache.digest(folder / "mine.pth")
    assert found["sha256"] == SHA256
    assert cache.digest(folder / "mine.pth") is found
    (folder / "mine.pth").write_bytes(DATA[::-1])
    assert cache.find_file(entry()) is None


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc/self/mem")
def test_files_that_cannot_be_read_are_passed_over(server, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "a.pth").symlink_to("/proc/self/mem")
    (folder / "b.pth").write_bytes(DATA)
    assert cache.find_file(entry()) == folder / "b.pth"


def test_a_damaged_file_is_fetched_again(server):
    server.answers["/a"] = give(DATA)
    path = download.fetch(entry(server.url("/a")))
    path.write_bytes(b"damage")
    assert cache.find_file(entry()) is None
    assert download.fetch(entry(server.url("/a"))).read_bytes() == DATA
