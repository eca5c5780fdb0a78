"""Compose a configuration from a command line, or explain in one sentence why that fails.

``compose`` gives notebooks and tests the configuration of a command line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from src.config import resolvers as resolvers  # registers them
from src.config.overrides import quote_paths, translate
from src.config.suggestions import closest
from src.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
NUMBER_AS_CHOICE = "Config group override must be a string"  # Hydra's words
SURE_MATCH = 0.85  # similarity above which a suggestion is certain


def compose(*overrides: str) -> DictConfig:
    """Return the configuration of ``python -m src.run <overrides>``.

    Raises:
        UserError: an override is invalid; the message names it and suggests the nearest valid one.
    """
    GlobalHydra.instance().clear()
    overrides = tuple(translate(overrides))
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=[quote_paths(override) for override in overrides])
    except Exception as error:
        raise UserError(explain(error, overrides)) from error


def to_plain(config: Any) -> Any:
    """Return a node as plain dictionaries and lists, with every interpolation resolved."""
    return OmegaConf.to_container(config, resolve=True)


def explain(error: Exception, overrides: Sequence[str] = ()) -> str:
    """Return the message for an error of Hydra or OmegaConf about a configuration."""
    text, cause = str(error), error.__cause__
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"{match[1]} has a value already: leave out the + before it."
    if match := re.search(r"Could not (?:override|delete from config)\W+'([^']+)'", text):
        inner = str(getattr(cause, "full_key", ""))  # the key within a value {key: ...}
        return _explain_option(match[1], inner if inner.startswith(match[1]) else match[1], overrides)
    if NUMBER_AS_CHOICE in text:
        for group, _, choice in (override.lstrip("+").partition("=") for override in overrides):
            if (CONF / group).is_dir() and not (CONF / group / f"{choice}.yaml").exists():
                return _explain_choice(group, choice)
    if match := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        return _explain_choice(group, choice)
    if match := re.search(r"UserError raised while resolving interpolation: (.*)", text):
        return match[1]
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} is needed and has no default: add {match[1]}=<value>."
    if cause and (match := re.search(r"Error in call to target '([^']+)'.*full_key: (\S+)", text, re.DOTALL)):
        return f"Cannot instantiate {match[2]} ({match[1]}): {' '.join(str(cause).split()) or type(cause).__name__}"
    return " ".join(text.split())


def _explain_option(override: str, option: str, overrides: Sequence[str]) -> str:
    """Explain an option that the configuration does not have.

    Args:
        override: the option as typed.
        option: the unknown option: a key within the value if the value is a dictionary, otherwise the same.
        overrides: all overrides of the command.
    """
    others = [o for o in overrides if o.partition("=")[0].lstrip("+~") != override.partition("=")[0] and "," not in o]
    key = option.partition("=")[0]
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            node: Any = hydra_compose("config", overrides=others)
    except Exception:  # another override is wrong, too: only the names of config groups are known
        node = OmegaConf.create({})
    parents: list[str] = []
    for part in key.split("."):  # descend to the first part that does not exist
        siblings = sorted(str(name) for name in node if not str(name).startswith("_"))
        if not parents:
            siblings = sorted({*siblings, *(folder.name for folder in CONF.iterdir() if folder.is_dir())})
        if part not in siblings or not isinstance(node._get_node(part), DictConfig):
            break
        parents.append(part)
        node = node[part]
    without_value = set[str]()  # arguments of this node's target that the configuration does not set
    if not closest(part, siblings, SURE_MATCH) and "_target_" in node:
        from src.config.signatures import signature_of  # imported late, because it is slow

        with suppress(UserError):
            without_value = signature_of(str(node["_target_"])).kinds.keys() - {*siblings}
    if part in without_value:
        return f"{key} has no value yet, so it is added with a + before it: +{key}=<value>."
    if close := closest(part, [*siblings, *without_value]):
        return (
            f"There is no option {key!r}: did you mean {'+' * (close in without_value)}{'.'.join([*parents, close])}?"
        )
    place = ".".join(parents) or "the configuration"
    return f"There is no option {key!r}: {place} has {', '.join(siblings) or 'none'}."


def _explain_choice(group: str, choice: str) -> str:
    """Explain a choice that a group does not have."""
    if choice.startswith("submitit_"):
        return f"hydra/launcher={choice} needs an extra package: pip install -e '.[slurm]'."
    folder = CONF / group
    choices = sorted(p.stem for p in folder.glob("*.yaml") if not p.stem.startswith("_")) if folder.is_dir() else []
    if close := closest(choice, choices, 0.6):
        return f"There is no {group}={choice}: did you mean {group}={close}?"
    return f"There is no {group}={choice}: choose one of {', '.join(choices) or 'none'}."
