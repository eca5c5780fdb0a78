"""Geometry of every network of the suite, as the papers have it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from src.geometry import Geometry, evenly

EDVR = Geometry(4, 5, (2,))
ZSM = Geometry(4, 4, evenly(0, "1/2", 7), stride=3, elastic=True)
DSFN = Geometry(4, 4, (1, Fraction(3, 2), 2))
VTSR = Geometry(1, 2, (Fraction(3, 4), Fraction(5, 4)))
WDVR = Geometry(4, 20, tuple(range(8, 12)), stride=4, elastic=True)
ALL = {"edvr": EDVR, "zsm": ZSM, "dsfn": DSFN, "vtsr": VTSR, "wdvr": WDVR}


@pytest.mark.parametrize(
    ("name", "lead", "trail", "spacing", "subdivision"),
    [
        ("edvr", 2, 2, Fraction(1), 1),
        ("zsm", 0, 0, Fraction(1, 2), 2),
        ("dsfn", 1, 1, Fraction(1, 2), 2),
        ("vtsr", 1, 0, Fraction(1, 2), 4),
        ("wdvr", 8, 8, Fraction(1), 1),
    ],
)
def test_derived(name, lead, trail, spacing, subdivision):
    g = ALL[name]
    assert (g.lead, g.trail, g.spacing, g.subdivision) == (lead, trail, spacing, subdivision)


def test_output_times():
    assert ZSM.output_times(3) == [Fraction(0), Fraction(1, 2), Fraction(1), Fraction(3, 2), Fraction(2)]
    assert EDVR.output_times(3) == [0, 1, 2]
    assert VTSR.output_times(2) == [
        Fraction(-1, 4),
        Fraction(1, 4),
        Fraction(3, 4),
        Fraction(5, 4),
    ]  # the centre of each half exposure
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
