"""Overrides as typed, before Hydra reads them: older names and the named points of studies become today's overrides."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from src.config.suggestions import end_with_suggestion
from src.errors import UserError
from src.zoo import is_name

CONF = Path(__file__).resolve().parents[2] / "conf"

PATH_OPTIONS = (
    "checkpoint",
    "input",
    "target",
    "runs",
    "output",
    "data.root",
    "data.low",
    "data.high",
    "paths.runs",
    "paths.data",
    "model.network.stages",
    "pack",
    "card",
    "resume",
    "code",
)
LIST_OPTIONS = ("input", "target", "runs", "model.network.stages", "code")  # those of the above that may be a list
STUDY = "hydra.callbacks.study"
TEXT_OPTIONS = ("licence", "limits", "name", f"{STUDY}.title")
RESUMES = ("resume=true", "resume=false")  # other values are paths
CHECKPOINTS = (".ckpt", ".pth", ".safetensors")
PAIRED = ("data=paired", "degradation=_given")  # the first brings the second, whatever an experiment chooses
NETWORK, PLACES = "model/network/", {"scheme": "model/scheme"}  # where a part of a paper is placed
RENAMED = {  # options and groups by their former names, and those of a sweep's table by short ones
    "size.imagenet": "size.pretrained",
    "size.vtsr_rate": "size.rate",
    "size.frozen": "size.pretrained_frozen",
    "size.interpolating": "size.warm_start",
    "model.network.interpolating": "model.network.warm_start",
    **{f"table.{option}": f"{STUDY}.{option}" for option in ("name", "title", "columns", "compare")},
}
UNFUSED, UNGUIDED = "model/network/fuse=conv", "model/network/guide=none"
FORMER_CHOICES = {  # choices that are several overrides today
    "model=edvr_m_one": ("model=edvr_m", "model/network/align=one", UNFUSED),
    "model=edvr_m_four": ("model=edvr_m", "model/network/align=four", UNFUSED),
    "model=edvr_m_pcd": ("model=edvr_m", "model/network/align=pcd", UNFUSED),
    "model=edvr_m_temporal": ("model=edvr_m", "model/network/fuse=temporal"),
    "model=edvr_m_wide": ("model=edvr_m", "+model/network/reconstruct/body=wide"),
    "model=zsm_naive": ("model=zsm", UNGUIDED, "model/network/interpolate=naive", "model/network/aggregate=none"),
    "model=zsm_deformable": ("model=zsm", UNGUIDED, "model/network/aggregate=none"),
    "model=zsm_convlstm": ("model=zsm", UNGUIDED, "model/network/aggregate=convlstm"),
    "model=zsm_deformable_convlstm": ("model=zsm", UNGUIDED, "model/network/aggregate=deformable_convlstm"),
    "model=zsm_wide": ("model=zsm", "+model/network/reconstruct/body=wide"),
    **{f"degradation=jpeg_q{q}": ("degradation=jpeg", f"degradation.steps.1.quality={q}") for q in (10, 20, 30, 40)},
    **{f"test=padding_{n}": ("test=trained", "protocol.clip_length=1", f"protocol.padding={n}") for n in range(9)},
}


def translate(arguments: Sequence[str], *, sweep: bool = False) -> list[str]:
    """Rewrite the overrides of a command line as Hydra reads them.

    Older names become today's, a named point its overrides, and a part such as ``model/network/align=pcd`` the choice
    of the paper's group, ``model/edvr/align=pcd``. ``data=paired`` brings ``degradation=_given``.

    Args:
        arguments: arguments of a command line.
        sweep: select the points ``point=<name>,<name>`` of a multirun, and leave out the study's others.

    Raises:
        UserError: the study has no such point, or no paper has such a part.
    """
    arguments = expand_points([_rename(argument) for argument in arguments], sweep=sweep)
    if PAIRED[0] in arguments and not any(argument.startswith("degradation=") for argument in arguments):
        arguments = [*arguments, PAIRED[1]]
    named = " ".join(argument for argument in arguments if argument.startswith(("model=", "experiment=", "ablation=")))
    return [_by_paper(new, named) for old in arguments for new in FORMER_CHOICES.get(old, (old,))]


def refuse_other_data(arguments: Iterable[str]) -> None:
    """Refuse ``test=vid4`` beside another ``data=``, which would be scored under its name.

    Studies may stand on other data: their tables name it.

    Raises:
        UserError: the test is of another data set.
    """
    options = dict(argument.partition("=")[::2] for argument in arguments)
    file, data = CONF / "test" / f"{options.get('test')}.yaml", options.get("data")
    if data is None or "ablation" in options or not file.is_file():
        return
    test: Any = OmegaConf.load(file)
    chosen = {key: value for entry in test.get("defaults", ()) for key, value in entry.items()}
    own, protocol = chosen.get("override /data", data), chosen.get("override /protocol")
    if own != data:
        rules = f" protocol={protocol}" if protocol else ""
        raise UserError(
            f"test={file.stem} scores data={own}, and data={data} would take its place. To score data={data} by the "
            f"same rules, replace test={file.stem} by test=trained{rules}; to score these weights on {own}, use "
            f"task=evaluate data={own}{rules} checkpoint=<run>/checkpoints/last.ckpt."
        )


def by_place(override: str) -> str:
    """Return an override with a paper's part under its place, as a person types it: ``model/network/align=pcd``."""
    key, equals, value = override.partition("=")
    match = re.fullmatch(r"([+~]*)model/(?!network/)([a-z]+)/([a-z/]+)", key)
    return f"{match[1]}{PLACES.get(match[3], NETWORK + match[3])}{equals}{value}" if match else override


def _by_paper(argument: str, named: str) -> str:
    """Return an override with a part under its paper: the one that has the (first) choice.

    Of several, as for ``glob(*)``, it is one that ``named``, the model and experiment of the command, mentions.
    """
    key, _, choices = argument.partition("=")
    name = key.lstrip("+~")
    part = next((part for part, place in PLACES.items() if place == name), name.removeprefix(NETWORK))
    folders = sorted((CONF / "model").glob(f"*/{part}")) if part != name or name in PLACES.values() else []
    if not folders or not choices:
        return argument
    functions = re.sub(r"\b(?:choice|glob|shuffle|sort|tag)\(", "(", choices)  # Hydra's, around the choices of a sweep
    first = next(filter(None, re.split(r"[(),\[\]\s]+", functions)), choices)
    having = [folder for folder in folders if any(folder.glob(f"{first}.yaml"))]
    if not having:
        known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
        raise UserError(f"There is no {name}={choices}{end_with_suggestion(choices, known)}")
    papers = {folder: folder.relative_to(CONF / "model").parts[0] for folder in having}
    folder = next((folder for folder in having if papers[folder] in named), having[0])
    return f"{key[: len(key) - len(name)]}model/{folder.relative_to(CONF / 'model')}={choices}"


def _rename(argument: str) -> str:
    """Return an override with its option or group under today's name."""
    key, equals, value = argument.partition("=")
    name = key.lstrip("+~")
    return key[: len(key) - len(name)] + RENAMED.get(name, name) + equals + value


def expand_points(arguments: Sequence[str], *, sweep: bool = False) -> list[str]:
    """Replace ``point=<name>`` by the overrides of that point of the study ``ablation=<study>``.

    Args:
        arguments: arguments of a command line.
        sweep: select the points ``point=<name>,<name>`` of a multirun, and leave out the study's others.

    Raises:
        UserError: the study has no such point.
    """
    options = dict(argument.partition("=")[::2] for argument in arguments)
    folders = [Path(options[flag]) for flag in ("--config-dir", "-cd") if options.get(flag)] + [CONF]
    files = [folder / "ablation" / f"{options.get('ablation')}.yaml" for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    if "point" not in options or file is None:
        return list(arguments)
    study: Any = OmegaConf.to_container(OmegaConf.load(file))
    points: dict[str, list[str]] = study["hydra"]["sweeper"].get("points", {})
    names = options["point"].split(",") if sweep else [options["point"]]
    if unknown := [name for name in names if name not in points]:
        raise UserError(f"{file.stem} has no point {unknown[0]!r}{end_with_suggestion(unknown[0], points)}")
    others = [f"~hydra.sweeper.points.{name}" for name in points if name not in names]
    return [a for a in arguments if not a.startswith("point=")] + (others if sweep else points[names[0]])


def fold_point(overrides: Iterable[str], points: Mapping[str, Sequence[str]]) -> list[str]:
    """Replace the overrides of one of ``points`` by ``point=<name>``; of several that fit, the longest."""
    overrides = list(overrides)
    fitting = [name for name, own in points.items() if set(own) <= set(overrides)]
    if not fitting:
        return overrides
    name = max(fitting, key=lambda name: len(points[name]))
    return [*(override for override in overrides if override not in points[name]), f"point={name}"]


def quote_paths(override: str) -> str:
    """Return an override with quotes round its paths, or round a text.

    Runs lie in folders such as ``seed=0``, a name that Hydra would parse as grammar.
    """
    key, _, value = override.partition("=")
    if key in TEXT_OPTIONS and value[:1] not in ("'", '"', "") and not re.fullmatch(r"null|[a-zA-Z][\w.-]*", value):
        return f"{key}={_quote(value)}"
    quoted = value[:1] in ("'", '"') or value[:2] in ("['", '["') or "{_target_:" in value  # a network among the paths
    if key not in PATH_OPTIONS or quoted or value in ("", "null", "???") or override.lower() in RESUMES:
        return override
    if key not in LIST_OPTIONS or not _is_list(value):
        return f"{key}={_quote(value)}"
    return f"{key}=[{','.join(_quote(path) for path in split_paths(value))}]"


def _is_list(value: str) -> bool:
    """Return True for ``[a,b]``, False for a name such as ``[Group] clip [1080p]`` or ``[Group] clip.mkv``."""
    depth = [value[: end + 1].count("[") - value[: end + 1].count("]") for end in range(len(value))]
    return value[:1] == "[" and value[-1:] == "]" and 0 not in depth[:-1]


def _quote(text: str) -> str:
    """Quote a text; backslashes before a quote are doubled, as Hydra halves them there."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), text) + "'"


def _join_existing(parts: list[str]) -> list[str]:
    """Join neighbouring parts of a list that make a path together, with commas."""
    joined = []
    while parts:
        several = (count for count in range(len(parts), 1, -1) if _exists(",".join(parts[:count])))
        count = next(several, 1)
        joined.append(",".join(parts[:count]))
        parts = parts[count:]
    return joined


def _exists(path: str) -> bool:
    path = os.path.expanduser(path.strip("'\""))
    return os.path.exists(path) or (glob.has_magic(path) and any(glob.iglob(path)))


def split_paths(value: str) -> list[str]:
    """Split ``[a.ckpt,b.pth]``; a single path is a list of one.

    Paths of checkpoints may contain commas, but not after a single word: that is a name of weights, perhaps mistyped.
    Other paths contain those with which they exist, as the directories of runs do.
    """
    if not _is_list(value):
        return [value]
    parts = [part.strip() for part in value[1:-1].split(",")]
    if not any(suffix in value for suffix in CHECKPOINTS):
        return _join_existing(parts)
    paths, begun = [], ""
    for part in parts:
        begun = f"{begun},{part}" if begun else part
        bare = begun.strip("'\"")
        if bare.endswith(CHECKPOINTS) or is_name(bare) or re.fullmatch("[a-z][a-z0-9_]*", begun):
            paths.append(begun)
            begun = ""
    return [*paths, begun] if begun else paths
