"""Register the sweeper of :mod:`src.sweeps.sweeper`: Hydra looks for plugins in this folder alone."""

from __future__ import annotations

from src.sweeps import sweeper


class Points(sweeper.Points):
    """``hydra/sweeper=points``, under the name that Hydra expects."""
