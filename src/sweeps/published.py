"""What was published: the papers' tables, and the studies of ``conf/ablation`` that repeat them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src.config.composition import CONF
from src.sweeps.aggregate import Row, number
from src.training.wandb import SweepSpec

PAIR = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")  # PSNR/SSIM in one cell, as papers print them


@dataclass(frozen=True)
class Table:
    """A table (or figure) of a paper, as its ``published.yaml`` has it; PSNR/SSIM pairs are columns of their own.

    Args:
        folder: of the paper, under ``experiments/``.
        paper: its name.
        key: the table's, in ``published.yaml``.
        columns: titles, in the paper's order.
        rows: values by title, in the paper's order.
        printed: the rows as they stand in the file.
        finding: what the paper says in words.
    """

    folder: str
    paper: str
    key: str
    columns: list[str]
    rows: list[Row]
    printed: list[Row]
    finding: str = ""

    @property
    def title(self) -> str:
        """``table4_1_fusion`` as a reader says it: Table 4.1, fusion."""
        match = re.fullmatch(r"(table|figure)(\d+(?:_\d+(?=_))?)_(.*)", self.key)
        if not match:
            return self.key.replace("_", " ")
        return f"{match[1].capitalize()} {match[2].replace('_', '.')}, {match[3].replace('_', ' ')}"

    def decimals(self, column: str) -> int | None:
        """How many the paper prints; None for a column of words."""
        values = [row[column] for row in self.rows if row[column] is not None]
        if not values or any(isinstance(value, bool | str) for value in values):
            return None
        return max(len(str(value).partition(".")[2]) if "e" not in str(value) else 0 for value in values)


@dataclass(frozen=True)
class Paper:
    """A folder of ``experiments/``: what its ``published.yaml`` says."""

    folder: str
    name: str
    protocol: str
    tables: list[Table]


def published(experiments: Path) -> list[Paper]:
    """All papers, each with all its tables, in the order of their files."""
    papers = []
    for file in sorted(experiments.glob("*/published.yaml")):
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
        name, folder = str(content.get("paper", file.parent.name)), file.parent.name
        tables = [_table(folder, name, key, node) for key, node in content["tables"].items()]
        papers.append(Paper(folder, name, str(content.get("protocol", "")), tables))
    return papers


def _table(folder: str, paper: str, key: str, node: Mapping[str, Any]) -> Table:
    titles = list(node.get("columns", ()))
    printed = [dict(zip(titles, row, strict=True)) for row in node.get("rows", ())]
    pairs = {t for t in titles if any(isinstance(row[t], str) and PAIR.fullmatch(row[t]) for row in printed)}
    columns = [name for title in titles for name in ([title, f"{title} SSIM"] if title in pairs else [title])]
    rows: list[Row] = []
    for line in printed:
        row: Row = {}
        for title, value in line.items():
            match = PAIR.fullmatch(value) if title in pairs and isinstance(value, str) else None
            row[title] = float(match[1]) if match else value
            if title in pairs:
                row[f"{title} SSIM"] = float(match[2]) if match else None
        rows.append(row)
    # 0.8800 is a float without its zeros; Table.decimals finds how many there were in the longest
    return Table(folder, paper, key, columns, rows, printed, str(node.get("finding", "")))


@dataclass(frozen=True)
class Sweepable:
    """A study of ``conf/ablation``, seen from one table that it repeats.

    Args:
        name: of the study, ``ablation=<name>``.
        params: what its points are, by option, as Hydra's sweeper gets it.
        options: of :class:`src.sweeps.callback.Study`.
        table: key of the table.
        rows: index of the table's row by point.
    """

    name: str
    params: dict[str, str]
    options: dict[str, Any]
    rows: dict[Any, int]

    @cached_property
    def varied(self) -> list[str]:
        """The options that tell its points apart, in the order in which they are named."""
        parser = OverridesParser.create()
        return sorted(key for key, values in self.params.items() if _sweeps(parser, key, values))

    @property
    def columns(self) -> dict[str, str]:
        """What is read of each point, by title."""
        return dict(self.options["columns"])

    @property
    def across(self) -> list[str]:
        """The options that make columns instead of rows."""
        return list(self.options.get("across", ()))

    @property
    def hide(self) -> list[Any]:
        """Points that are there for others alone."""
        return list(self.options.get("hide", ()))

    @property
    def published(self) -> dict[Any, Row]:
        """What the paper has for each point; one row for all points that are one there."""
        by_index: dict[int, Row] = {}
        return {number(point): by_index.setdefault(index, {"row": index}) for point, index in self.rows.items()}

    @property
    def compare(self) -> str:
        """The column that it is about."""
        return str(self.options.get("compare", "psnr"))

    @property
    def expected(self) -> int:
        """How many rows it makes where nothing is left out."""
        if self.rows:
            return len(set(self.rows.values()))
        parser = OverridesParser.create()
        values = [f"{key}={self.params[key]}" for key in self.varied if key not in self.across]
        counts = (len(list(parser.parse_override(value).sweep_string_iterator())) for value in values)
        return math.prod(counts)


def _sweeps(parser: OverridesParser, key: str, values: str) -> bool:
    return bool(parser.parse_override(f"{key}={values}").is_sweep_override())


def rows_by_point(
    file: str, table: str, key: str | Sequence[str] = (), rows: Mapping[Any, Any] | None = None
) -> tuple[dict[Any, Row], str]:
    """The rows of a table of a paper's ``published.yaml`` by a study's points, and what it says in words.

    Args:
        file, table: where it is.
        key: the column, or columns, that say which point a row is.
        rows: the key of each point, where that is not what the point is called.
    """
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF.parent / file))
    whole = _table(Path(file).parent.name, "", table, content["tables"][table])
    found = _rows(whole, {"key": key, "rows": rows})
    return {number(point): whole.rows[index] for point, index in found.items()}, whole.finding


def studies(table: Table, conf: Path = CONF) -> list[Sweepable]:
    """The studies that name ``table``."""
    found = []
    for node in _ablations(conf):
        options = node["hydra"]["callbacks"]["study"]
        named = options.get("published") or []
        for one in [named] if isinstance(named, Mapping) else named:
            if Path(one["file"]).parent.name == table.folder and one["table"] == table.key:
                params = _params(node)
                found.append(Sweepable(str(options["name"]), params, options, _rows(table, one)))
    return found


def swept(conf: Path = CONF) -> list[SweepSpec]:
    """Every study, as W&B shows it."""
    parser, found = OverridesParser.create(), []
    for node in _ablations(conf):
        study, options = node["hydra"]["callbacks"]["study"], {}
        for key, values in _params(node).items():
            given = parser.parse_override(f"{key}={values}")
            sweeps = given.is_sweep_override()
            options[key] = list(given.sweep_string_iterator()) if sweeps else [given.get_value_element_as_str()]
        figure = str(study["columns"].get(study.get("compare", "psnr"), "")).rpartition("results/summary/")[2]
        found.append(
            SweepSpec(study["name"], study["title"], options, f"test/{figure if figure.isidentifier() else 'psnr'}")
        )
    return found


def _params(node: Any) -> dict[str, str]:
    """Return what a study sweeps over, by option; its named points as the option ``point``."""
    sweeper = node["hydra"]["sweeper"]
    named = {"point": ",".join(sweeper["points"])} if "points" in sweeper else {}
    return {key: _said(value) for key, value in sweeper.get("params", {}).items()} | named


@cache
def _ablations(conf: Path) -> list[Any]:
    return [OmegaConf.to_container(OmegaConf.load(file)) for file in sorted((conf / "ablation").glob("*.yaml"))]


def _rows(table: Table, named: Mapping[str, Any]) -> dict[Any, int]:
    """Index of the table's row by the name of a study's point."""
    keys = named.get("key") or []
    keys = [keys] if isinstance(keys, str) else keys
    if not keys:
        return {}
    names = [" ".join(_said(row[key]) for key in keys) for row in table.printed]
    points = named.get("rows") or {name: name for name in names}
    return {_said(point): names.index(_said(name)) for point, name in points.items() if _said(name) in names}


def _said(value: Any) -> str:
    """A value as it stands on the command line."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
