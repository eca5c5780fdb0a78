"""Register the launcher of :mod:`src.sweeps.launcher`: Hydra looks for plugins in this folder alone."""

from __future__ import annotations

from src.sweeps import launcher


class Processes(launcher.Processes):
    """``hydra/launcher=processes``, under the name that Hydra expects."""
