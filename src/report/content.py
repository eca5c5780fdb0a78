"""Content of the report: every published table with the results of its studies, and the runs outside of studies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from src.config.run_directory import read_commit
from src.report.charts import Chart
from src.report.figures import FramePair, plot_costs, plot_frame_scores, plot_learning, read_pair
from src.report.labels import label_runs
from src.report.runs import Run, find_runs
from src.report.study_results import StudyResult, format_command, load_own_results, load_results
from src.report.tables import ClipTable, ComparisonTable, compare_table, tabulate_clips
from src.sweeps.published import Paper, Table, studies

PAIRS_PER_STUDY = 6  # the variants of the longest study that papers show frames of (ZSM, Table 5 and Figures 9 to 12)


@dataclass(frozen=True)
class StudyReport:
    """A study's result with its table, charts and frames."""

    result: StudyResult
    comparison: ComparisonTable
    command: str
    learning_curves: list[Chart]
    frame_scores: list[Chart]
    clips: ClipTable
    pairs: list[FramePair] = field(default_factory=list)  # added in the order of the page


@dataclass(frozen=True)
class TableReport:
    """A published table with the results of its studies.

    Args:
        table: as published.
        status: ``filled``, ``partly filled`` or ``not run``.
        comparison: the published table alone.
        studies: results.
        commands: of the studies that were not run.
        missing: reasons for a table without studies.
    """

    table: Table
    status: str
    comparison: ComparisonTable
    studies: list[StudyReport]
    commands: list[str]
    missing: list[str]

    @property
    def anchor(self) -> str:
        """Its id on the page."""
        return f"{self.table.folder}-{self.table.key}"

    @property
    def state(self) -> str:
        """The status, marked ``mini`` or ``not as published`` if every result departs from the published experiment."""
        departures = [study.result.departures for study in self.studies if study.result.rows_done]
        if not departures or not all(departures):
            return self.status
        mini = all(first.startswith("mini") for first, *_ in departures)
        return f"{self.status}, {'mini' if mini else 'not as published'}"


class ReportContent:
    """Content of the page and of the Markdown files.

    Args:
        papers: published tables.
        folder: the runs, ``paths.runs``.
        output: folder of the report, for relative links.
        pictures: number of frame pairs on the page.
        clips: number of clips per study for scores over time.
    """

    def __init__(self, papers: Sequence[Paper], folder: Path, output: Path, *, pictures: int, clips: int) -> None:
        self.papers, self.folder, self.output = papers, folder, output
        self.commit, self.pictures_left, self.clips = read_commit(), pictures, clips
        self.runs = {run.directory.resolve(): run for run in find_runs(folder) if run.readable}
        self.tables = {paper.folder: [self._report_table(table) for table in paper.tables] for paper in papers}
        names = {study.name for paper in papers for table in paper.tables for study in studies(table)}
        own = load_own_results(folder, names)
        self.own = [self._report_study(Table("", "", one.study.name, [], [], []), one) for one in own]
        for report in self.own:
            report.pairs.extend(self._pair_points(report.result, len(report.result.runs_by_point)))
        self.other_pairs = self._pair_others()
        for report in [study for tables in self.tables.values() for table in tables for study in table.studies]:
            report.pairs.extend(self._pair_points(report.result, PAIRS_PER_STUDY))

    @property
    def counts(self) -> dict[str, int]:
        """Number of tables by status."""
        statuses = [table.status for tables in self.tables.values() for table in tables]
        return {status: statuses.count(status) for status in ("filled", "partly filled", "not run")}

    @property
    def not_run(self) -> list[TableReport]:
        """The published tables without any result."""
        return [table for tables in self.tables.values() for table in tables if not table.studies]

    def link(self, file: Path) -> str:
        """Return a file's address relative to the page."""
        return quote(os.path.relpath(file, self.output).replace(os.sep, "/"))

    def relative_path(self, run: Run) -> str:
        """Return a run's path below ``paths.runs``."""
        return os.path.relpath(run.directory, self.folder)

    def _report_table(self, table: Table) -> TableReport:
        table_studies = studies(table)
        results = {study.name: load_results(study, self.folder) for study in table_studies}
        reports = [
            self._report_study(table, result)
            for study in table_studies
            for result in results[study.name]
            if result.runs or result.unfinished
        ]
        done = [max((result.rows_done for result in results[study.name]), default=0) for study in table_studies]
        complete = all(rows >= study.expected for rows, study in zip(done, table_studies, strict=True))
        return TableReport(
            table,
            "filled" if table_studies and complete else "partly filled" if any(done) else "not run",
            compare_table(table),
            reports,
            [
                format_command(study, (), self.folder)
                for study, rows in zip(table_studies, done, strict=True)
                if not rows
            ],
            [] if table_studies else ["no study of conf/ablation repeats it"],
        )

    def _report_study(self, table: Table, result: StudyResult) -> StudyReport:
        for run in result.runs:
            self.runs.setdefault(run.directory.resolve(), run)
        return StudyReport(
            result,
            compare_table(table, result),
            result.study.options.get("command") or format_command(result.study, result.options, self.folder),
            plot_learning(result.runs_by_point),
            plot_frame_scores(result.runs_by_point, self.clips),
            tabulate_clips(result.runs_by_point),
        )

    def _pair_points(self, result: StudyResult, limit: int) -> Iterator[FramePair]:
        """Yield a pair of frames for each of the first ``limit`` points, from the clip that most points have."""
        samples = {point: seeds[0].samples for point, seeds in result.runs_by_point.items()}
        clips = [clip for files in samples.values() for clip in files]
        pictured = [(point, files) for point, files in samples.items() if files]
        for point, files in pictured[: min(limit, self.pictures_left)]:
            clip = max(files, key=clips.count)
            self.pictures_left -= 1
            if pair := read_pair(files[clip], f"{clip}, {point}", result.runs_by_point[point][0]):
                yield pair

    @cached_property
    def costs(self) -> list[Chart]:
        """Charts of PSNR against parameters and seconds."""
        return plot_costs(list(self.runs.values()))

    @cached_property
    def other_runs(self) -> dict[str, list[Run]]:
        """Runs that belong to no study, by experiment or task."""
        in_studies = {
            run.directory.resolve()
            for tables in self.tables.values()
            for table in tables
            for study in table.studies
            for run in study.result.runs
        }
        in_studies |= {run.directory.resolve() for study in self.own for run in study.result.runs}
        others: dict[str, list[Run]] = {}
        for directory, run in self.runs.items():
            if directory not in in_studies:
                others.setdefault((*Path(self.relative_path(run)).parts, self.folder.name)[0], []).append(run)
        return others

    @cached_property
    def labelled_runs(self) -> dict[str, dict[str, list[Run]]]:
        """Runs that belong to no study, by experiment or task and by what differs between them; seeds share a label."""
        labelled: dict[str, dict[str, list[Run]]] = {}
        for experiment, runs in self.other_runs.items():
            by_label = labelled.setdefault(experiment, {})
            for run, label in zip(runs, label_runs([run.options for run in runs]), strict=True):
                by_label.setdefault(label or experiment, []).append(run)
        return labelled

    @cached_property
    def other_clips(self) -> dict[str, ClipTable]:
        """Scores of single clips of the runs that belong to no study, by experiment or task."""
        return {experiment: tabulate_clips(runs) for experiment, runs in self.labelled_runs.items()}

    @cached_property
    def other_charts(self) -> list[Chart]:
        """Learning curves of the runs that belong to no study."""
        return [chart for name, runs in self.labelled_runs.items() for chart in plot_learning(runs, name)]

    def _pair_others(self) -> list[FramePair]:
        """Return frames of the runs that belong to no study, of one seed each, within the limit of pictures."""
        pairs = []
        for experiment, by_label in self.labelled_runs.items():
            clips = [clip for seeds in by_label.values() for clip in seeds[0].samples]
            for label, (run, *_) in by_label.items():
                if run.samples and self.pictures_left > 0:
                    self.pictures_left -= 1
                    clip = max(run.samples, key=clips.count)
                    name = label if label == experiment else f"{experiment}, {label}"
                    pairs.append(read_pair(run.samples[clip], f"{clip}, {name}", run))
        return [pair for pair in pairs if pair]
