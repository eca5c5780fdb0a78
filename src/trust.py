"""Code of the user's own that files of weights may name: none by default, else the packages that the user trusts.

A file of weights describes its network by the names of classes. It may come from anywhere, so only classes of this
suite and of ``torch.nn`` are built from it, and those of packages given to :func:`trust` in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

NEVER_OFFERED = {"src", "torch", "hydra", "omegaconf", *sys.stdlib_module_names}  # no message suggests trusting these
_trusted: set[str] = set()


def trust(*packages: str) -> None:
    """Let files of weights name the Modules of further packages or modules, in this process."""
    _trusted.update(packages)


def is_trusted(module: str) -> bool:
    """Return True if a module, or a package around it, has been given to :func:`trust`."""
    return any(module == package or module.startswith(f"{package}.") for package in _trusted)


def find_own_targets(description: Any) -> list[str]:
    """List the targets in the description of a network that neither this suite nor torch defines."""
    targets = (target for target in _walk_targets(description) if target.split(".")[0] not in NEVER_OFFERED)
    return sorted({target for target in targets if "." in target and all(map(str.isidentifier, target.split(".")))})


def list_packages(targets: Iterable[str]) -> list[str]:
    """List the packages of dotted names."""
    return sorted({target.split(".")[0] for target in targets})


def suggest_trust(description: Any) -> str:
    """Say which option opens a description, as the end of a sentence; empty if no option does."""
    packages = list_packages(find_own_targets(description))
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        return (
            f", and there is no module {missing[0]} here; if it is code of your own, add code=<folder>/{missing[0]}.py"
        )
    return f"; if it is code of your own, add trust=[{','.join(packages)}]" if packages else ""


def _walk_targets(description: Any) -> Iterator[str]:
    pending, seen = [description], set[int]()
    while pending:
        node = pending.pop()
        if id(node) in seen:  # an untrusted description may contain itself
            continue
        if isinstance(node, Mapping | list):
            seen.add(id(node))
            pending += node.values() if isinstance(node, Mapping) else node
        if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
            yield node["_target_"]
