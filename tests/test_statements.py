"""The pages that go through the papers statement by statement name what exists, and count what they list."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import src
from src.config.composition import CONF
from tests.command_line import ROOT

PAGES = sorted((ROOT / "experiments").glob("*/fidelity.md"))
KINDS = {"as published": "as published", "not given": "not given", "quoted": "quoted", "differs": "differ"}
CHOICE = re.compile(r"([a-z_/]+)=([\w,]+)")
OPTION = re.compile(r"(data|protocol|trainer|model|degradation|callbacks|size)\.[\w.]+")
NAME = re.compile(r"[A-Z]\w+(\.\w+)*|[a-z]\w+_\w+")


class Row(NamedTuple):
    """A statement: its number, where the suite has it, and how."""

    number: int
    where: str
    how: str


def read_rows(page: Path) -> Iterator[Row]:
    for line in page.read_text(encoding="utf-8").splitlines():
        if re.match(r"\| *\d+ *\|", line):
            number, _, where, how = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:5])
            yield Row(int(number), where, how)


@cache
def list_names() -> set[str]:
    """List the names that modules of the suite define or import, those of their classes' members, and tests."""
    names = {name for text in read_sources() for name in re.findall(r"def (\w+)", text)}
    for module in pkgutil.walk_packages(src.__path__, "src."):
        try:
            content = vars(importlib.import_module(module.name))
        except ImportError:  # Triton
            continue
        for name, value in content.items():
            names |= {name} | ({f"{name}.{member}" for member in dir(value)} if isinstance(value, type) else set())
    return names


@cache
def has_option(option: str) -> bool:
    """Check for an option in the configuration of any experiment, or in a file that sets it."""
    key = option.rpartition(".")[2]
    return any(re.search(rf"\b{re.escape(key)}\b", file.read_text()) for file in CONF.rglob("*.yaml")) or any(
        re.search(rf"\b{re.escape(key)}: ", file.read_text()) for file in (ROOT / "src").rglob("*.py")
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_the_rows_are_numbered_and_their_count_is_told(page):
    rows = list(read_rows(page))
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    counted = Counter(next((kind for kind in KINDS if row.how.startswith(kind)), row.how) for row in rows)
    assert counted.keys() <= KINDS.keys(), counted
    told = re.search(r"^(\d+) statements: (.*)\.$", page.read_text(encoding="utf-8"), flags=re.M)
    if told:
        assert int(told[1]) == len(rows)
        numbers = dict(re.findall(r"(\d+) (as published|not given|quoted|differ)", told[2]))
        assert {kind: int(number) for number, kind in numbers.items()} == {KINDS[k]: n for k, n in counted.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_what_a_row_names_exists(page):
    missing = []
    for row in read_rows(page):
        for token in re.findall(r"`([^`]+)`", row.where):
            words = token.split()
            for word in words:
                if not exists(word):
                    missing.append(f"{row.number}: {word}")
    assert not missing


def exists(word: str) -> bool:
    """Check a file, a choice of the configuration, an option or a name of the code; other words are none of these."""
    if "=" in word:
        key, _, value = word.lstrip("+~").partition("=")
        folders = [
            folder for folder in (CONF / key, *CONF.glob(f"model/*/{key.rpartition('/')[2]}")) if folder.is_dir()
        ]
        if not folders or not CHOICE.fullmatch(f"{key}={value}"):
            return not OPTION.fullmatch(key) or has_option(key)
        return all(any((f / f"{choice}.yaml").is_file() for f in folders) for choice in value.split(",") if choice)
    if "/" in word and re.fullmatch(r"[\w./]+", word):
        return (ROOT / word).exists() or word.count("/") == 1
    if OPTION.fullmatch(word):
        return has_option(word)
    if not NAME.fullmatch(word) or word in list_names():
        return True
    kind, _, member = word.partition(".")
    if member:  # what a constructor sets
        files = [text for text in read_sources() if re.search(rf"^class {kind}\b", text, flags=re.M)]
        return any(re.search(rf"self\.(\w+, self\.)*{member}\b", text) for text in files)
    return has_option(word) if word[0].islower() else False


@cache
def read_sources() -> list[str]:
    return [file.read_text(encoding="utf-8") for folder in ("src", "tests") for file in (ROOT / folder).rglob("*.py")]


def test_what_does_not_exist_is_noticed():
    for word in ("src/papers/edvrr.py", "ablation=edvr_blockz", "data.crops_of_nothing", "EDVRX", "EDVR.nothing"):
        assert not exists(word), word
    for word in ("src/papers/edvr.py", "ablation=edvr_blocks", "data.crop", "EDVR.motion", "data.crop=64"):
        assert exists(word), word
