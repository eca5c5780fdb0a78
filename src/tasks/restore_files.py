"""Options of ``task=restore``, and the files that it reads and writes."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from src.data.splits import abbreviate
from src.engine.journal import Journal
from src.engine.options import RestoreOptions
from src.engine.output_record import OutputRecord
from src.errors import UserError
from src.video.discovery import find_videos, is_image_pattern, is_video, list_images

CONSOLE = Console(stderr=True, markup=False, highlight=False)  # standard output may be the video


@dataclass(frozen=True, kw_only=True)
class RestoreCommand(RestoreOptions):
    """Options of ``task=restore``.

    Args:
        input: a video, a folder of frames or of videos, a pattern, a list of these, or ``-`` for standard input.
        output: a video, a folder, or ``-`` for standard output.
        container: suffix of the files in an output folder.
        overwrite: replace an existing output, and discard parts that other options made.
        preview: frames, spread over the video, to restore first as PNGs beside the output.
        compile: compile the network (torch.compile): minutes at first, then faster.
        show: ``motion`` (or ``offsets``): write the motion that the network estimates instead of the restored video;
            ``attention``: its temporal attention.
    """

    input: str | list[str]
    output: str
    container: str = ".mp4"
    overwrite: bool = False
    preview: Annotated[int, Ge(0)] = 0
    compile: bool = False
    show: Literal["motion", "offsets", "attention"] | None = None


def find_sources(options: RestoreCommand) -> list[Path]:
    """Find the videos that ``input`` names: a file, a folder of frames or of videos, a pattern, or a list of these.

    What folders and patterns hold is no input if an earlier command has made it.
    """
    found: list[Path] = []
    searched: dict[Path, Path] = {}  # the folder in which a video was found
    for name in [options.input] if isinstance(options.input, str) else options.input:
        path = Path(os.path.expanduser(name))
        if (path.exists() and not path.is_dir()) or is_image_pattern(path):
            found.append(path)
            continue
        root, matches = (path, find_videos(path)) if path.is_dir() else (_fixed_folder(path), _match(path))
        found += matches or [path]
        searched |= {match: root for match in matches if match != path}
    if missing := [path for path in found if not (path.exists() or is_image_pattern(path))]:
        several = [part.strip() for part in str(missing[0]).split(",")]
        is_list = len(several) > 1 and all(Path(os.path.expanduser(part)).exists() for part in several)
        hint = f"; write several videos as 'input=[{','.join(several)}]'" if is_list else ""
        if (wildcard := re.sub(r"%0?\d*d", "*", str(missing[0]))) != str(missing[0]):
            hint = f"; write numbered images as 'input={wildcard}'"
        raise UserError(f"input={missing[0]} does not exist, and no file matches it as a pattern{hint}.")
    sources = _without_outputs(list(dict.fromkeys(found)), searched, options)
    if not sources:  # a restored video in a folder of frames
        sources = [folder for folder in dict.fromkeys(searched.values()) if list_images(folder)]
    if not sources:
        raise UserError(f"input={options.input} holds no videos but those in output={options.output}.")
    return sources


def _fixed_folder(pattern: Path) -> Path:
    """Return the folder of a pattern up to its first wildcard."""
    if pattern.parent.is_dir():
        return pattern.parent
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _match(pattern: Path) -> list[Path]:
    """Return the videos that a pattern matches, or all of its matches if none looks like a video."""
    if pattern.parent.is_dir():  # brackets in its own name are no pattern
        inside = list(pattern.parent.glob(pattern.name))
    else:
        inside = [Path(match) for match in glob.iglob(str(pattern), recursive=True)]
    shown = sorted(path for path in inside if path.name[0] != ".")
    return [path for path in shown if is_video(path)] or shown


def _without_outputs(found: Sequence[Path], searched: Mapping[Path, Path], options: RestoreCommand) -> list[Path]:
    """Leave out the outputs and previews among the videos that a search has found.

    In a folder below the searched one, these are all videos; in the searched folder itself, those that an earlier
    command has made there.
    """
    output = Path(os.path.expanduser(options.output)).resolve()
    places = {path: path.resolve() for path in found}
    if output.suffix and not output.is_dir():
        made = {output, output.with_name(f"{output.stem}.preview")}
        return [path for path in found if path not in searched or places[path] not in made]
    names = OutputRecord(output).list_made()
    kept: list[Path] = []
    left: list[Path] = []
    for path in found:
        inside = path in searched and output in places[path].parents
        below = inside and searched[path].resolve() in output.parents
        restored = inside and places[path].parent == output and path.name in names
        (left if below or restored else kept).append(path)
    if left:
        message = (
            f"{len(left)} of {len(found)} videos found are no input, as they lie in {options.output} and were restored "
            f"before: {abbreviate(map(str, left))}. Another output= takes them, too."
        )
        rank_zero_only(CONSOLE.print)(message, soft_wrap=True)
    return kept


def _candidate_names(source: Path) -> list[str]:
    """List the names for the output of a video, without suffix: the first that no other video has is taken."""
    name = source.stem if source.is_file() else (source if source.is_dir() else source.parent).name
    longer = f"{source.parent.name}_{name}"  # as in a/clip.mp4 and b/clip.mp4
    return [name, longer, f"{longer}_{source.suffix[1:]}"]  # the last as in clip.mp4 and clip.mov


def name_outputs(options: RestoreCommand, sources: Sequence[Path]) -> list[Path]:
    """Name the output of each video: ``output`` itself, or files in that folder if there may be several."""
    output = Path(os.path.expanduser(options.output))
    plain = isinstance(options.input, str) and sources == [Path(os.path.expanduser(options.input))]
    several = len(sources) > 1 or not (plain or output.suffix)
    if several and output.suffix:
        raise UserError(f"There are {len(sources)} videos to restore: output={output} must be a folder (no suffix).")
    outputs = _name_in_folder(output, sources, options.container) if several else [output]
    for source, target in zip(sources, outputs, strict=True):
        if target.resolve() == source.resolve():
            raise UserError(f"{target} is the input itself; choose another output.")
        taken = target.exists() and not (target.is_dir() and not any(target.iterdir()))
        if taken and not (several or options.overwrite or Journal.locate(target).exists()):
            raise UserError(f"{target} exists already; choose another output, or add overwrite=true.")
    return outputs


def _name_in_folder(folder: Path, sources: Sequence[Path], container: str) -> list[Path]:
    """Name the outputs of several videos, and record them; those of earlier commands keep their names.

    Raises:
        UserError: two would have the same name.
    """
    record = OutputRecord(folder)
    candidates = {source: [f"{name}{container}" for name in _candidate_names(source)] for source in sources}
    named = {source: name for source in sources if (name := record.find_name(source, candidates[source]))}
    added = [source for source in sources if source not in named]
    for names in zip(*(candidates[source] for source in added), strict=True):
        if len(set(names)) == len(names) and record.sources.keys().isdisjoint(names):
            named |= zip(added, names, strict=True)
            break
    else:
        if added:
            twice = next(name for name in names if names.count(name) > 1 or name in record.sources)
            raise UserError(f"Several videos would be called {twice}: restore them one by one, or rename some.")
    return [folder / named[source] for source in sources]


@rank_zero_only
def record_outputs(options: RestoreCommand, sources: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Record the outputs to be made in a folder; not those of other origin, which are left as they are."""
    folder = Path(os.path.expanduser(options.output))
    made = [(s, o) for s, o in zip(sources, outputs, strict=True) if not is_finished(o) and o.parent == folder]
    if made:
        OutputRecord(folder).add(made)


def is_finished(output: Path) -> bool:
    return output.exists() and not Journal.locate(output).exists()
