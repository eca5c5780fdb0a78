"""Code of the user's own: files that become importable, and packages whose Modules a checkpoint may build."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from src.errors import UserError
from src.trust import find_own_targets, list_packages, trust


def open_own_code(config: DictConfig) -> list[str]:
    """Make the files of ``code`` importable, and trust their modules, ``trust``, and the packages of ``model.network``.

    The network of a command is the user's own, so that a checkpoint may name the same packages.

    Returns:
        The packages, for ``trust`` in the run's record.

    Raises:
        UserError: a file of ``code`` does not exist, or its name is taken.
    """
    files = [make_importable(file) for file in list_texts(config.get("code"))]
    packages = [*list_texts(config.get("trust")), *files, *list_packages(_list_own_parts(config))]
    trust(*packages)
    return sorted({*packages})


def make_importable(file: str | Path) -> str:
    """Append the folder of a Python file, or of a package, to the search path of modules; return the module's name.

    Raises:
        UserError: there is no such file, or another module has its name.
    """
    path = Path(os.path.expanduser(file)).resolve()
    source = path / "__init__.py" if path.is_dir() else path
    if source.suffix != ".py" or not source.is_file():
        raise UserError(f"code={file} is no Python file: name a file .py, or a folder with an __init__.py.")
    if not path.stem.isidentifier():
        raise UserError(f"code={file}: {path.stem} cannot be imported, so rename it to a Python name.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that nothing in this folder takes the place of another module
        importlib.invalidate_caches()
    found = getattr(find_spec(path.stem), "origin", None)
    if found is None or Path(found).resolve() != source:
        raise UserError(f"code={file}: another module is called {path.stem} ({found}); rename yours.")
    return path.stem


def describe_own_parts(config: DictConfig) -> str:
    """Tell which parts of the network are the user's own, and what loads their checkpoint; empty without any."""
    parts = _list_own_parts(config)
    files = {Path(os.path.expanduser(file)).stem: file for file in list_texts(config.get("code"))}
    named = [files[package] for package in list_packages(parts) if package in files]
    others = [package for package in list_packages(parts) if package not in files]
    options = [f"code={named[0]}" if len(named) == 1 else f"code=[{','.join(named)}]"] if named else []
    options += [f"trust=[{','.join(others)}]"] if others else []
    sentence = f"Own parts: {', '.join(parts)}. To evaluate or restore with this checkpoint, add {' '.join(options)}."
    return sentence if parts else ""


def _list_own_parts(config: DictConfig) -> list[str]:
    """List the targets of ``model.network`` outside the suite; nothing of it is resolved or imported."""
    network = OmegaConf.select(config, "model.network", throw_on_missing=False)
    plain: Any = OmegaConf.to_container(network, resolve=False) if isinstance(network, DictConfig) else None
    return find_own_targets(plain)


def list_texts(value: Any) -> list[str]:
    """Return an option with one text or several as a list; validation reports values of other types."""
    return [item for item in (value if isinstance(value, ListConfig | list) else [value]) if isinstance(item, str)]
