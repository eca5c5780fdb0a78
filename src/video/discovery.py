"""What on a disk is a clip: video files, folders of frames, and patterns of their names."""

from __future__ import annotations

import glob
import re
from pathlib import Path

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".264", ".265", ".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m2ts", ".m2v",
    ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
})
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# fmt: on
PACKED = ".mp4"  # of a video that a folder of frames was packed into, beside the folder's name (src/video/packed.py)


def find_videos(root: str | Path) -> list[Path]:
    """The clips in and under ``root``, in natural order: video files, and folders of two or more images.

    A folder of frames is one clip and is not looked into; ``root`` itself may be a clip. Hidden names are skipped.
    """
    root = Path(root)
    if is_video(root):
        return [root]
    if not root.is_dir():
        return []
    found: list[Path] = []
    pending, seen = [root], {root.resolve()}  # links are followed, but none twice
    while pending:
        for entry in pending.pop().iterdir():
            if entry.name.startswith("."):
                continue
            if is_video(entry):
                found.append(entry)
            elif entry.is_dir() and (real := entry.resolve()) not in seen:
                seen.add(real)
                pending.append(entry)
    return sorted(found, key=lambda path: natural(str(path)))


def is_video(path: str | Path) -> bool:
    """Whether ``path`` is, going by names, a video file or a folder of frames (two images or more, no videos)."""
    path = Path(path)
    if path.is_dir():
        suffixes = [entry.suffix.lower() for entry in path.iterdir() if not entry.name.startswith(".")]
        return sum(suffix in IMAGE_SUFFIXES for suffix in suffixes) > 1 and VIDEO_SUFFIXES.isdisjoint(suffixes)
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def clip_at(place: Path) -> Path | None:
    """The folder ``place``, or the video of the same name that it was packed into; None where neither is there."""
    video = place.with_name(place.name + PACKED)
    return place if place.is_dir() else video if video.is_file() else None


def is_pattern(path: Path) -> bool:
    """Whether a path is a pattern of the names of images, and of nothing else, in a folder that there is."""
    if path.exists() or not glob.has_magic(path.name) or not path.parent.is_dir():
        return False
    shown = [entry for entry in path.parent.glob(path.name) if entry.name[0] != "."]
    return len(shown) > 1 and all(entry.suffix.lower() in IMAGE_SUFFIXES for entry in shown)


def images(path: Path) -> list[Path]:
    """The images of a folder, or those in a folder that a pattern of names matches, in natural order."""
    entries = path.iterdir() if path.is_dir() else path.parent.glob(path.name)
    files = [file for file in entries if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."]
    return sorted(files, key=lambda file: natural(file.name))


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts frame2 before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
