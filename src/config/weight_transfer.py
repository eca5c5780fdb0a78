"""Weights of a checkpoint for a network that may have other parts: which are taken, left, and started anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from src.config.suggestions import closest
from src.errors import UserError

MOST_OFFERED = 6  # parts that a message offers to skip


@dataclass(frozen=True)
class WeightTransfer:
    """The outcome for each weight.

    Args:
        taken: weights of the checkpoint that the network takes over, by name.
        left: names of the checkpoint's other weights.
        anew: names of the network's other weights.
    """

    taken: dict[str, Tensor]
    left: list[str]
    anew: list[str]

    def describe(self, checkpoint: str) -> str:
        """Describe the outcome in lines, with the number of weights in each part."""
        lines = [f"Weights of {checkpoint}:"]
        for title, names in (("taken", self.taken), ("left", self.left), ("started anew", self.anew)):
            counts = ", ".join(f"{part} {count}" for part, count in Counter(map(_part_of, names)).items())
            lines.append(f"  {title:<12} {len(names):4}{f'  {counts}' if counts else ''}")
        return "\n".join(lines)


def match_weights(
    weights: Mapping[str, Tensor], initial: Mapping[str, Tensor], skip: Sequence[str], checkpoint: str
) -> WeightTransfer:
    """Match the weights of a checkpoint with those of a network.

    Args:
        weights: those of the checkpoint.
        initial: those of the network.
        skip: names or patterns of parts or of weights that are not taken.
        checkpoint: its name, for messages.

    Raises:
        UserError: a weight has no counterpart of its shape and is not skipped, a pattern matches nothing, or nothing is
            left to take.
    """
    skipped = _find_skipped([*weights, *initial], skip)
    wanted = {name: weight for name, weight in weights.items() if name not in skipped}
    mismatched = [name for name in wanted if name not in initial or initial[name].shape != wanted[name].shape]
    if mismatched:
        parts = _summarise_parts(mismatched, list(weights))
        is_whole = {_part_of(name) for name in mismatched} == {_part_of(name) for name in weights}
        option = f"checkpoint_skip=[{','.join([*skip, *parts])}]"
        offer = "" if is_whole or len(parts) > MOST_OFFERED else f", or add {option} to start {_join(parts)} anew"
        raise UserError(
            f"The checkpoint {checkpoint} does not match the configured network ({len(mismatched)} mismatched weights, "
            f"the first is {mismatched[0]}): use the model and size from the run's config.yaml{offer}; a cascade also "
            "accepts a checkpoint of its first stage's architecture."
        )
    if not wanted:
        raise UserError(f"checkpoint_skip leaves nothing of {checkpoint}: leave out checkpoint, or skip fewer parts.")
    return WeightTransfer(
        wanted, [name for name in weights if name not in wanted], [name for name in initial if name not in wanted]
    )


def _find_skipped(names: Iterable[str], skip: Sequence[str]) -> set[str]:
    """Return the names that a pattern matches, or that lie in a part that it matches."""
    parts = {name: _list_prefixes(name) for name in names}
    found = set[str]()
    for pattern in skip:
        matches = {name for name, around in parts.items() if any(fnmatchcase(part, pattern) for part in around)}
        if not matches:
            known = list(dict.fromkeys(part for around in parts.values() for part in around))
            near = closest(pattern, known)
            choices = ", ".join(dict.fromkeys(map(_part_of, parts)))
            end = f"did you mean {near}?" if near else f"the parts are {choices}."
            raise UserError(f"checkpoint_skip: no part or weight is called {pattern}: {end}")
        found |= matches
    return found


def _summarise_parts(mismatched: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the largest parts at least half of whose weights are mismatched."""
    total = Counter(prefix for name in names for prefix in _list_prefixes(name))
    wrong = Counter(prefix for name in mismatched for prefix in _list_prefixes(name))
    largest = [next(part for part in _list_prefixes(name) if 2 * wrong[part] >= total[part]) for name in mismatched]
    return list(dict.fromkeys(largest))


def _list_prefixes(name: str) -> list[str]:
    """List the parts around a weight from the outside in, and the weight itself."""
    words, least = name.split("."), len(_part_of(name).split("."))
    return [".".join(words[:end]) for end in range(least, len(words) + 1)]


def _part_of(name: str) -> str:
    """Return the attribute of the network in which a weight lies; in a cascade, that of its stage."""
    words = name.split(".")
    return ".".join(words[:3] if words[0] == "stages" and len(words) > 3 else words[:1])


def _join(names: Sequence[str]) -> str:
    return " and ".join([*[", ".join(names[:-1])] * (len(names) > 1), names[-1]])
