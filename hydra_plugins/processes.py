"""Hydra takes launchers from this folder alone; what this one does is in :mod:`src.studies.processes`."""

from __future__ import annotations

from src.studies import processes


class Processes(processes.Processes):
    """``hydra/launcher=processes``, under the name that Hydra asks for."""
