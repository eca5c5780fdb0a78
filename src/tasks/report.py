"""Report every published result beside every run: a page that needs no network, and Markdown tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from annotated_types import Ge
from omegaconf import DictConfig

from src.config.composition import CONF
from src.errors import UserError
from src.report.content import ReportContent
from src.report.render import write_report
from src.sweeps.published import list_sweeps, published
from src.training.wandb import sweep_config


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of ``task=report``; conf/task/report.yaml explains them."""

    output: str = "runs/report"
    project: str = "zeitlupe"


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Options ``report.*``, of the page; conf/task/report.yaml explains them."""

    pictures: Annotated[int, Ge(0)] = 48
    clips: Annotated[int, Ge(0)] = 3


def report(config: DictConfig, directory: Path, *, options: ReportOptions, report: PageOptions) -> dict[str, int]:
    """``task=report``: write ``index.html`` and a Markdown file for each paper into ``output``.

    Each study is also written as a W&B sweep, ``sweeps/<study>.yaml``.

    Returns:
        The number of tables that are ``filled``, ``partly filled`` and ``not run``.

    Raises:
        UserError: ``output`` cannot be written.
    """
    folder, output = Path(config.paths.runs), Path(options.output)
    papers = published(CONF.parent / "experiments")
    content = ReportContent(papers, folder, output, pictures=report.pictures, clips=report.clips)
    try:
        write_report(content, output)
        _write_sweeps(output / "sweeps", options.project)
    except OSError as error:
        raise UserError(f"Cannot write {output} ({error.strerror}). Choose another output=<folder>.") from error
    if not content.runs:
        print(f"No runs with results in {folder}, so every table is 'not run'. Set paths.runs=<folder>.")
    counts = ", ".join(f"{number} {status}" for status, number in content.counts.items())
    print(f"{sum(content.counts.values())} tables: {counts}.\nReport: {output / 'index.html'}")
    return content.counts


def _write_sweeps(folder: Path, project: str) -> None:
    folder.mkdir(exist_ok=True)
    for study in list_sweeps():
        text = yaml.safe_dump(sweep_config(study, project), sort_keys=False, width=120)
        (folder / f"{study.name}.yaml").write_text(text, encoding="utf-8")
