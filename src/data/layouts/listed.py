"""Videos of a list in the configuration, such as the clips that released weights are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from src.data.layouts.folder import split_by_time
from src.data.source_size import SourceSize
from src.data.splits import Clip, DamagedClips, Splits
from src.errors import UserError
from src.video.discovery import find_videos


@dataclass(frozen=True)
class ListedClip:
    """One video of a list.

    Args:
        licence: licence of the footage.
        source: where it was published.
        credit: text that the licence demands.
        reduce: factor on height and width of its frames, for videos that are soft or compressed at their own size.
        start, stop: first frame used, and the frame after the last; ``None`` is the end.
    """

    licence: str
    source: str
    credit: str | None = None
    reduce: int = 1
    start: int = 0
    stop: int | None = None


def listed(
    root: Path | str,
    clips: Mapping[str, ListedClip],
    reduced: bool | Literal["both"] = True,
    hold_back: float = 0.2,
    gap: int = 4,
    skip: int = 0,
) -> Splits:
    """Return the clips of a list, with the end of each held back as by :func:`src.data.layouts.folder.folder`.

    Args:
        root: folder that holds the videos at any depth.
        clips: by file name without suffix.
        reduced: reduce frames by the factor of their clip; False leaves them soft and compressed as they are. "both"
            trains on them at either size, and holds back the ends at their own size.
        hold_back: the fraction of each video that is never trained on.
        gap: source frames excluded between the splits of a video.
        skip: number of videos that may be excluded because they cannot be opened.

    Raises:
        UserError: videos are missing, two have the same name, all are too short, or too many are damaged.
    """
    root = Path(root)
    if gap < 0 or not 0 <= hold_back < 1:
        raise UserError(f"data.layout needs gap >= 0 and hold_back within [0, 1), got gap={gap}, hold_back={hold_back}")
    found: dict[str, Path] = {}
    for path in find_videos(root):
        if path.stem in clips and found.setdefault(path.stem, path) != path:
            raise UserError(f"{found[path.stem]} and {path} are both {path.stem} of the list: keep one of them")
    if missing := [name for name in clips if name not in found]:
        raise UserError(
            f"{len(missing)} of the {len(clips)} listed videos are not in {root.absolute()}: {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}. Set data.root=<folder with them>, or try data=procedural "
            f"size=mini. {missing[0]} is {clips[missing[0]].source}"
        )
    chosen = [
        Clip(
            name,
            found[name].resolve(),
            start=clip.start,
            stop=clip.stop,
            source_size=SourceSize(reduction=clip.reduce if reduced is True else 1),
        )
        for name, clip in clips.items()
    ]
    splits = split_by_time(chosen, hold_back, gap, DamagedClips(skip)) if hold_back else Splits(train=chosen)
    if reduced != "both":
        return splits
    small = [
        replace(clip, name=f"{clip.name}/reduced", source_size=SourceSize(reduction=clips[clip.name].reduce))
        for clip in splits.train
        if clips[clip.name].reduce > 1
    ]
    return replace(splits, train=[*splits.train, *small])
