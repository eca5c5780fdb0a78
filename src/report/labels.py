"""Short labels that tell runs and networks apart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from src.config.overrides import PATH_OPTIONS
from src.config.run_names import label_path


def label_runs(options: Sequence[Sequence[str]], limit: int = 48) -> list[str]:
    """Name runs by the options that not all of them have; empty for one without any. Long labels are shortened."""
    shared = set.intersection(*map(set, options)) if options else set()
    labels = [" ".join(_label_option(option) for option in one if option not in shared) for one in options]
    return [
        label if len(label) <= limit else f"{label[: limit - 13]}\N{HORIZONTAL ELLIPSIS}{label[-12:]}"
        for label in labels
    ]


def _label_option(option: str) -> str:
    """Return an override by the last part of its option, a checkpoint by its run."""
    key, _, value = option.lstrip("+~").partition("=")
    value = label_path(value.strip("'"), with_step=False) if key in PATH_OPTIONS and value else value
    return f"{re.split('[./]', key)[-1]}={value}"


def label_networks(keys: Sequence[str]) -> list[str]:
    """Name networks (see :func:`src.report.runs.network_key`) by their class and by the parts in which they differ."""
    networks = [dict(_flatten(json.loads(key))) for key in keys]
    labels: list[str] = []
    for network in networks:
        same_class = [other for other in networks if other.get("_target_") == network.get("_target_")]
        differing = [key for key in network if any(other.get(key) != network[key] for other in same_class)]
        parts = [key for key in ["_target_", *differing] if key.endswith("_target_") and key in network]
        labels.append(" ".join(dict.fromkeys(_label(key, network[key]) for key in parts)) or "network")
    for label in {label for label in labels if labels.count(label) > 1}:  # add differing numbers
        indices = [index for index, other in enumerate(labels) if other == label]
        for index in indices:
            network = networks[index]
            differing = [key for key in network if any(networks[i].get(key) != network[key] for i in indices)]
            labels[index] = " ".join([label, *dict.fromkeys(_label(key, network[key]) for key in differing[:2])])
    return labels


def _flatten(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flatten(value, f"{path}.{key}" if path else key)
    else:
        yield path, json.dumps(node) if isinstance(node, list) else node


def _label(key: str, value: Any) -> str:
    if key.endswith("_target_"):
        return str(value).rpartition(".")[2]
    return f"{key.rpartition('.')[2]} {Path(value).name if isinstance(value, str) else value}"
