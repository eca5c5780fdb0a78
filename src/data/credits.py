"""Sources, licences and credits of clips: ``credits.yaml`` in the folder of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from src.errors import UserError
from src.video.discovery import VIDEO_SUFFIXES

FILE = "credits.yaml"
UNSTATED = "licence not stated"


@dataclass(frozen=True)
class Credit:
    """The terms of a clip.

    Args:
        source: where it comes from.
        licence: its licence.
        credit: whom to name.
    """

    source: str = ""
    licence: str = UNSTATED
    credit: str = ""


def read_credits(root: Path, clips: Iterable[str], listed: Mapping[str, Any] | None = None) -> dict[str, Credit]:
    """Return the terms of clips by name. An entry belongs to a clip, a file of that name, or a folder of clips.

    Args:
        root: folder of the data set; its ``credits.yaml`` maps names to ``source``, ``licence`` and ``credit``.
        clips: their names.
        listed: terms from :func:`src.data.layouts.listed.listed`, which those of the file replace.

    Raises:
        UserError: ``credits.yaml`` is no such mapping, or has an empty name.
    """
    file, names = root / FILE, [field.name for field in fields(Credit)]
    stated = {name: entry for name, entry in (listed or {}).items() if isinstance(entry, Mapping)}
    entries = {name: Credit(**{key: str(entry.get(key) or "") for key in names}) for name, entry in stated.items()}
    entries |= _read(file) if file.is_file() else {}
    stems = {_strip_suffix(name): name for name in entries}
    terms = {}
    for clip in clips:
        places = [clip, *(folder.as_posix() for folder in Path(clip).parents)]
        name = next((found for place in places if (found := place if place in entries else stems.get(place))), None)
        terms[clip] = entries[name] if name else Credit()
    return terms


def _strip_suffix(name: str) -> str:
    path = Path(name)
    return (path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path).as_posix()


def _read(file: Path) -> dict[str, Credit]:
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
        if any(not str(name).strip() for name in content):
            raise TypeError("a name is empty")
        return {str(name): Credit(**{key: str(text) for key, text in entry.items()}) for name, entry in content.items()}
    except (AttributeError, TypeError, YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{file} must map names of clips to source, licence and credit, as a.mp4: {{licence: CC0-1.0}} ({reason})."
        ) from error
