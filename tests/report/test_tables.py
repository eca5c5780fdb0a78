"""Published values beside ours."""

from __future__ import annotations

from fractions import Fraction

import pytest
from omegaconf import OmegaConf

from src.config.composition import compose
from src.metrics import FrameScore
from src.protocols import Protocol, results, write_results
from src.report.study_results import StudyResult, load_results
from src.report.tables import MINUS, MISSING, compare_table
from src.sweeps.aggregate import rank_correlation
from src.sweeps.published import studies
from tests.report.examples import TABLES, load_block_design, write_point


def test_our_values_follow_the_papers_with_difference_and_deviation(runs):
    table, result = load_block_design(runs)
    shown = compare_table(table, result)
    assert shown.words == ["design"]
    column = shown.metrics.index("psnr")
    lines = {group.names[0]: {line.kind: line.cells[column] for line in group.lines} for group in shown.groups}
    assert lines["IAI"] == {"paper": "28.70", "here": "25.50", "difference": "\N{MINUS SIGN}3.20"}
    assert lines["TSAS"]["here"] == "27.60 ± 0.14"  # of 27.5 and 27.7
    assert lines["STAS"] == {"paper": "28.92"}  # failed
    labels = {group.names[0]: [line.label for line in group.lines] for group in shown.groups}
    assert labels["TSAS"][1] == "here, mini, 2 seeds"
    assert shown.agreement[column] == "1.00"
    assert result.rows_done == 3
    assert result.study.expected == 4
    assert [status for _, status, _ in result.unfinished] == ["failed"]


def test_the_papers_row_of_differences_has_ours(tmp_path):
    scores = {"edvr_reds_sr_clean": (28.5, 25.25), "edvr_vimeo": (27.5, 25.75)}
    for experiment, values in scores.items():
        for test, psnr in zip(("reds4", "vid4_rgb"), values, strict=True):
            given = [f"experiment={experiment}", f"test={test}", "size=mini", "checkpoint=x", "seed=0"]
            directory = tmp_path / experiment / test / "seed=0"
            directory.mkdir(parents=True)
            OmegaConf.save(compose(*given, f"paths.runs={tmp_path}"), directory / "config.yaml", resolve=True)
            frame = FrameScore(clip=0, time=Fraction(0), psnr=psnr, ssim=0.9, temporal_difference_error=None)
            content = results({0: [frame]}, protocol=Protocol(test), names=["000"], degradation={}, data="x", commit="")
            write_results(directory / "results.json", content)
            points = tmp_path / "ablations" / "edvr_dataset_bias" / "size=mini" / "points"
            overrides = ["ablation=edvr_dataset_bias", *given[:3], given[-1]]
            write_point(points / f"{experiment}-{test}.json", overrides, directory, "finished")
    table = next(table for table in TABLES if table.key == "table4_dataset_bias")
    (study,) = studies(table)
    (result,) = load_results(study, tmp_path)
    shown = compare_table(table, result)
    lines = {line.kind: line.cells for line in shown.groups[2].lines}
    assert shown.groups[2].names == ["\N{GREEK CAPITAL LETTER DELTA}"]
    columns = [shown.metrics.index(name) for name in ("reds4", "vid4", "vimeo90k")]
    assert [lines["paper"][k] for k in columns] == ["0.60", f"{MINUS}0.46", f"{MINUS}1.46"]
    assert [lines["here"][k] for k in columns] == ["1.00", f"{MINUS}0.50", MISSING]
    assert [lines["difference"][k] for k in columns] == ["+0.40", f"{MINUS}0.04", ""]


def test_values_equal_in_print_rank_alike_in_the_table_and_in_the_remark(runs):
    table, result = load_block_design(runs)
    for value, row in zip((25.001, 25.004, 24.9), result.rows.values(), strict=False):
        row["psnr"] = value
    shown = compare_table(table, result)
    agreement = shown.agreement[shown.metrics.index("psnr")]
    assert " = " in shown.remark.partition("here: ")[2]
    assert f"rank correlation {agreement}." in shown.remark.replace("-", "\N{MINUS SIGN}")


def test_a_seed_tested_several_times_counts_once(runs):
    table, result = load_block_design(runs)
    (tsas,) = (seeds for point, seeds in result.runs_by_point.items() if "tsas" in point)
    tsas += tsas[:1] * 3
    assert "here, mini, 2 seeds" in [
        line.label for group in compare_table(table, result).groups for line in group.lines
    ]


def test_printed_pairs_are_two_columns_with_the_papers_decimals():
    table = next(table for table in TABLES if table.key == "table3_reds4_sr_clean")
    shown = compare_table(table)
    assert shown.metrics[-2:] == ["average", "average SSIM"]
    assert shown.groups[-1].lines[0].cells[-2:] == ["31.09", "0.8800"]
    assert StudyResult(studies(TABLES[0])[0], []).value("average SSIM", 0) == (None, None)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # scipy.stats.spearmanr's own example
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486832980505138),
        ([1, 2, 3], [30.0, 20.0, 10.0], -1.0),
        ([1.00001, 1.00002, 3], [1, 1, 2], 1.0),  # equal to the fourth decimal
        ([1, 1, 1], [1, 2, 3], None),
    ],
)
def test_rank_correlation_averages_the_ranks_of_equal_values(one, other, expected):
    assert rank_correlation(one, other) == (expected and pytest.approx(expected))
