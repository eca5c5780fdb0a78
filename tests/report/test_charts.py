"""Charts of curves and of quality against cost."""

from __future__ import annotations

import pytest

from src.report.charts import Curve, Dot, downsample, pareto_front, plot_curves, plot_scatter


def test_the_pareto_front():
    points = [(2.0, 30.0), (1.0, 29.0), (3.0, 29.5), (2.0, 31.0), (4.0, 32.0)]
    assert pareto_front(points) == [1, 3, 4]
    chart = plot_scatter([Dot(f"model {number}", *point) for number, point in enumerate(points)], "t", "x", "PSNR")
    assert "On the front: model 1, model 3, model 4." in chart.description
    places = [(marker.x, marker.y) for marker in chart.markers]
    assert all(0 < x < chart.width and 0 < y < chart.height for x, y in places)
    assert plot_scatter([Dot("alone", 1.0, 2.0)], "t", "x", "y") is None
    assert plot_scatter([Dot("bicubic", 0.0, 2.0), Dot("zsm", 10.0, 3.0)], "t", "x", "y").x_ticks[0][1] == "0"


def test_long_curves_are_averaged():
    assert downsample([(x, 2.0 * x) for x in range(4)], 2) == [(0.5, 1.0), (2.5, 5.0)]
    assert len(downsample([(x, x) for x in range(10_000)])) <= 240
    assert plot_curves([Curve("a", [(1, float("nan")), (2, 1.0)])], "t", "x", "y") is None


@pytest.mark.long
def test_learning_curves_and_frame_scores_are_drawn(page):
    assert "PSNR in validation, dB over step. iai: 25 to 26; ias: 26 to 27; tsas: 27 to 28; tsas: 27.2 to 28.2" in page
    assert "training loss over step" in page
    assert "Frame by frame" in page
    assert page.count('class="line c') > 6


def test_a_single_value_is_a_marker_and_longer_curves_are_lines():
    chart = plot_curves([Curve("one", [(1, 2.0)]), Curve("two", [(1, 1.0), (3, 2.0)])], "t", "x", "y")
    assert len(chart.markers) == 1
    assert [line.label for line in chart.lines] == ["one", "two"]


def test_labels_of_neighbours_do_not_overlap_and_stay_in_the_chart():
    dots = [Dot("a long name of a network", 1.0, 30.0), Dot("another long name", 1.01, 30.01), Dot("far", 900.0, 20.0)]
    markers = {marker.label: marker for marker in plot_scatter(dots, "t", "x", "y").markers}
    first, second, far = (markers[dot.label] for dot in dots)
    assert abs(first.label_y - second.label_y) >= 12
    assert (first.anchor, far.anchor) == ("start", "start")
    right = {
        m.label: m for m in plot_scatter([dots[0], Dot("a long name at the right", 900.0, 31.0)], "t", "x", "y").markers
    }
    assert right["a long name at the right"].anchor == "end"
