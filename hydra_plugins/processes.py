"""Hydra takes launchers from this folder alone; what this one does is in :mod:`src.sweeps.launcher`."""

from __future__ import annotations

from src.sweeps import launcher


class Processes(launcher.Processes):
    """``hydra/launcher=processes``, under the name that Hydra asks for."""
