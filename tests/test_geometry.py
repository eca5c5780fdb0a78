"""Geometry of every network of the suite, as the papers have it."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest

from src.geometry import Geometry, evenly

EDVR = Geometry(4, 5, (2,))
ZSM = Geometry(4, 4, evenly(0, "1/2", 7), stride=3, elastic=True)
DSFN = Geometry(4, 4, (1, Fraction(3, 2), 2))
HALVES = (Fraction(1, 2),) * 2
VTSR = Geometry(1, 2, (Fraction(3, 4), Fraction(5, 4)), exposures=HALVES)
WDVR = Geometry(4, 20, tuple(range(8, 12)), stride=4, elastic=True)
ALL = {"edvr": EDVR, "zsm": ZSM, "dsfn": DSFN, "vtsr": VTSR, "wdvr": WDVR}


@pytest.mark.parametrize(
    ("name", "lead", "trail", "spacing", "subdivision"),
    [
        ("edvr", 2, 2, Fraction(1), 1),
        ("zsm", 0, 0, Fraction(1, 2), 2),
        ("dsfn", 1, 1, Fraction(1, 2), 2),
        ("vtsr", 1, 1, Fraction(1, 2), 2),
        ("wdvr", 8, 8, Fraction(1), 1),
    ],
)
def test_derived(name, lead, trail, spacing, subdivision):
    g = ALL[name]
    assert (g.lead, g.trail, g.spacing, g.subdivision) == (lead, trail, spacing, subdivision)


def test_output_times():
    assert ZSM.output_times(3) == [Fraction(0), Fraction(1, 2), Fraction(1), Fraction(3, 2), Fraction(2)]
    assert EDVR.output_times(3) == [0, 1, 2]
    assert VTSR.output_times(2) == [Fraction(k, 4) for k in (1, 3, 5, 7)]  # the centre of each half exposure
    assert ZSM.output_times(1) == [0]


def test_lengthened():
    three = ZSM.lengthened(3)
    assert (three.window, three.times, three.stride) == (2, (0, Fraction(1, 2), 1), 1)
    six = WDVR.lengthened(6)
    assert (six.window, six.times, six.stride) == (22, tuple(range(8, 14)), 6)
    with pytest.raises(ValueError, match="cannot give 4 frames"):
        ZSM.lengthened(4)
    with pytest.raises(ValueError, match="cannot give 3 frames"):
        EDVR.lengthened(3)


def test_padded():
    two = WDVR.padded(2)
    assert (two.window, two.times, two.stride) == (8, (2, 3, 4, 5), 4)
    none = WDVR.padded(0)
    assert (none.lead, none.trail, none.window) == (0, 0, 4)
    assert WDVR.padded(3).lengthened(1).window == 7


def test_refuses_nonsense():
    with pytest.raises(ValueError, match="ascend"):
        Geometry(4, 2, (1, 0))
    with pytest.raises(ValueError, match="at least 1"):
        Geometry(0, 2, (0,))


@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
def test_halved_again_and_again(rounds):
    g, parts = VTSR.again(rounds), 2**rounds
    assert g.exposures == (Fraction(1, parts),) * len(g.times)
    assert g.spacing == Fraction(1, parts)
    assert g.output_times(3) == [Fraction(2 * k + 1, 2 * parts) for k in range(3 * parts)]
    assert g.subdivision == parts
    edges = [g.interval(k) for k in range(len(g.times))]
    assert all(before[1] == after[0] for before, after in pairwise(edges))  # without gap or overlap


def test_in_a_row():
    assert ZSM.then(ZSM).output_times(2) == [Fraction(k, 4) for k in range(5)]
    assert EDVR.then(ZSM).scale == 16
    shown = VTSR.then(Geometry(2, 1, (0,)))  # frame by frame, enlarged: as long exposed as before
    assert (shown.times, shown.exposures) == ((Fraction(3, 4), Fraction(5, 4)), HALVES)


def test_each_output_has_an_exposure():
    with pytest.raises(ValueError, match="needs an exposure"):
        Geometry(1, 2, VTSR.times, exposures=(Fraction(1, 2),))
