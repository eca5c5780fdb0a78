"""The papers' published tables, and the studies of ``conf/ablation`` that repeat them."""

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
from src.sweeps.aggregate import Row, parse_number, resolve_columns
from src.training.wandb import SweepSpec

PAIR = re.compile(r"(-?\d+(?:\.\d+)?)/(-?\d+(?:\.\d+)?)")  # PSNR/SSIM in one cell, as papers print them


@dataclass(frozen=True)
class Table:
    """A table (or figure) of a paper's ``published.yaml``; PSNR/SSIM pairs are split into two columns.

    Args:
        folder: folder of the paper under ``experiments/``.
        paper: name of the paper.
        key: key of the table in ``published.yaml``.
        columns: column titles, in the paper's order.
        rows: values by title, in the paper's order.
        printed: the rows as in the file.
        finding: the paper's conclusion in words.
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
        """The title for readers: ``table4_1_fusion`` is "Table 4.1, fusion"."""
        match = re.fullmatch(r"(table|figure|section)(\d+(?:_\d+(?=_))?)_(.*)", self.key)
        if not match:
            return self.key.replace("_", " ")
        return f"{match[1].capitalize()} {match[2].replace('_', '.')}, {match[3].replace('_', ' ')}"

    def decimals(self, column: str) -> int | None:
        """Return the number of decimals in the paper; None for a column of words."""
        values = [row[column] for row in self.rows if row[column] is not None]
        if not values or any(isinstance(value, bool | str) for value in values):
            return None
        return max(len(str(value).partition(".")[2]) if "e" not in str(value) else 0 for value in values)


@dataclass(frozen=True)
class Paper:
    """The ``published.yaml`` of a folder of ``experiments/``."""

    folder: str
    name: str
    protocol: str
    tables: list[Table]


def published(experiments: Path) -> list[Paper]:
    """Load all papers with their tables, in the order of their files."""
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
    # YAML reads 0.8800 as 0.88; Table.decimals counts the decimals of the longest value
    return Table(folder, paper, key, columns, rows, printed, str(node.get("finding", "")))


@dataclass(frozen=True)
class Sweepable:
    """A study of ``conf/ablation`` together with one table that it repeats.

    Args:
        name: name of the study, ``ablation=<name>``.
        params: swept values by option, as for Hydra's sweeper; named points as the option ``point``.
        options: arguments of :class:`src.sweeps.callback.Study`.
        rows: index of the table's row by point.
    """

    name: str
    params: dict[str, str]
    options: dict[str, Any]
    rows: dict[Any, int]

    @cached_property
    def varied(self) -> list[str]:
        """The options that differ between points, sorted as in their names."""
        parser = OverridesParser.create()
        if "heading" in self.options:  # of the reader's own, whose values are those of its points
            return sorted(key for key in self.params if key != "seed")
        return sorted(key for key, values in self.params.items() if _sweeps(parser, key, values))

    @property
    def columns(self) -> dict[str, str]:
        """The sources of the columns, by title."""
        return resolve_columns(self.options.get("columns"))

    @property
    def across(self) -> list[str]:
        """Options that make columns instead of rows."""
        return list(self.options.get("across", ()))

    @property
    def hide(self) -> list[Any]:
        """Points without a row, which others depend on."""
        return list(self.options.get("hide", ()))

    @property
    def published(self) -> dict[Any, Row]:
        """The paper's row of each point; points may share one."""
        by_index: dict[int, Row] = {}
        return {parse_number(point): by_index.setdefault(index, {"row": index}) for point, index in self.rows.items()}

    @property
    def compare(self) -> str:
        """The compared column."""
        return str(self.options.get("compare", "psnr"))

    @property
    def expected(self) -> int:
        """The number of rows of the whole study."""
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
    """Return the rows of a published table by a study's points, and the paper's finding.

    Args:
        file: the paper's ``published.yaml``.
        table: key of the table in it.
        key: the column or columns that identify a row.
        rows: the key of each point if it is not the point's name.
    """
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF.parent / file))
    whole = _table(Path(file).parent.name, "", table, content["tables"][table])
    indices = _index_rows(whole, {"key": key, "rows": rows})
    return {parse_number(point): whole.rows[index] for point, index in indices.items()}, whole.finding


def studies(table: Table, conf: Path = CONF) -> list[Sweepable]:
    """Find the studies that repeat ``table``."""
    matching = []
    for node in _ablations(conf):
        options = node["hydra"]["callbacks"]["study"]
        references = options.get("published") or []
        for reference in [references] if isinstance(references, Mapping) else references:
            if Path(reference["file"]).parent.name == table.folder and reference["table"] == table.key:
                params = _list_params(node)
                matching.append(Sweepable(str(options["name"]), params, options, _index_rows(table, reference)))
    return matching


def list_sweeps(conf: Path = CONF) -> list[SweepSpec]:
    """List every study as a W&B sweep."""
    parser, sweeps = OverridesParser.create(), []
    for node in _ablations(conf):
        study, options = node["hydra"]["callbacks"]["study"], {}
        for key, values in _list_params(node).items():
            override = parser.parse_override(f"{key}={values}")
            swept = override.is_sweep_override()
            options[key] = list(override.sweep_string_iterator()) if swept else [override.get_value_element_as_str()]
        metric = str(resolve_columns(study.get("columns")).get(study.get("compare", "psnr"), "")).rpartition(
            "results/summary/"
        )[2]
        sweeps.append(
            SweepSpec(study["name"], study["title"], options, f"test/{metric if metric.isidentifier() else 'psnr'}")
        )
    return sweeps


def _list_params(node: Any) -> dict[str, str]:
    """List the swept values of a study by option; its named points as the option ``point``."""
    sweeper = node["hydra"]["sweeper"]
    named = {"point": ",".join(sweeper["points"])} if "points" in sweeper else {}
    return {key: _format_value(value) for key, value in sweeper.get("params", {}).items()} | named


@cache
def _ablations(conf: Path) -> list[Any]:
    nodes: list[Any] = []
    for file in sorted((conf / "ablation").glob("*.yaml")):
        nodes.append(OmegaConf.to_container(OmegaConf.load(file)))
        study = nodes[-1]["hydra"].setdefault("callbacks", {}).setdefault("study", {})
        study["name"] = study.get("name") or file.stem
        study["title"] = study.get("title") or study["name"]
    return nodes


def _index_rows(table: Table, named: Mapping[str, Any]) -> dict[Any, int]:
    """Return the index of the table's row by the name of a study's point."""
    keys = named.get("key") or []
    keys = [keys] if isinstance(keys, str) else keys
    if not keys:
        return {}
    names = [" ".join(_format_value(row[key]) for key in keys) for row in table.printed]
    points = named.get("rows") or {name: name for name in names}
    return {
        _format_value(point): names.index(_format_value(name))
        for point, name in points.items()
        if _format_value(name) in names
    }


def _format_value(value: Any) -> str:
    """Format a value as on the command line."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
