"""Rendering of the report's templates in ``page/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from src.report.content import ReportContent
from src.sweeps.aggregate import escape_markdown


def write_report(content: ReportContent, output: Path) -> None:
    """Write ``index.html``, which needs no network, and a Markdown file for each paper into ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "index.html").write_text(render("page.html", content), encoding="utf-8")
    for paper in content.papers:
        (output / f"{paper.folder}.md").write_text(render("tables.md", content, paper=paper), encoding="utf-8")


def render(template: str, content: ReportContent | None, **variables: Any) -> str:
    """Return a template of ``page/`` with its variables filled in."""
    environment = Environment(
        loader=PackageLoader("src.report", "page"),
        autoescape=lambda name: not (name or "").endswith((".md", ".css", ".js")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = escape_markdown
    return environment.get_template(template).render(content=content, **variables)
