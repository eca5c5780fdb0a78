"""Conversion of a published implementation's weights to the suite's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

Rule = tuple[str, str | Callable[[re.Match[str]], str]]


class Reference(NamedTuple):
    """One published implementation.

    Args:
        name: its name, for messages.
        marker: a parameter name that is unique to its state dicts.
        rules: ``(pattern, replacement)``; the first regular expression that matches a whole name renames it.
        build: build the suite's network, with sizes from the *renamed* tensors.
    """

    name: str
    marker: str
    rules: list[Rule]
    build: Callable[[Mapping[str, Tensor]], nn.Module]

    def rename(self, state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return the tensors of ``state_dict`` under the suite's names, and the names without a rule."""
        renamed, unknown = {}, []
        for name, tensor in state_dict.items():
            for pattern, replacement in self.rules:
                if match := re.fullmatch(pattern, name):
                    renamed[replacement(match) if callable(replacement) else match.expand(replacement)] = tensor
                    break
            else:
                unknown.append(name)
        return renamed, unknown


def count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """Count the numbered entries ``prefix.0``, ``prefix.1``, ... of a state dict."""
    numbers = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in state_dict)
    return 1 + max((int(match[1]) for match in numbers if match), default=-1)
