"""Find clips on disk: video files, folders of frames, and glob patterns of image names."""

from __future__ import annotations

import glob
import re
from pathlib import Path

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".264", ".265", ".3gp", ".apng", ".asf", ".avi", ".divx", ".flv", ".gif", ".h264", ".h265", ".hevc", ".ivf",
    ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm",
    ".wmv", ".y4m",
})
FILM_SUFFIXES = frozenset({".dpx", ".exr", ".sgi", ".tga", ".tif", ".tiff"})  # always still images
IMAGE_SUFFIXES = FILM_SUFFIXES | {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp"}
# fmt: on
PACKED_SUFFIX = ".mp4"  # appended to the name of a folder of frames packed into a video (src/video/packed.py)


def find_videos(root: str | Path) -> list[Path]:
    """Find the clips in and under ``root``, in natural order: video files, and folders of two or more images.

    A folder of frames is one clip; its subfolders are not searched. ``root`` itself may be a clip. Hidden names are
    skipped.
    """
    root = Path(root)
    if is_video(root):
        return [root]
    if not root.is_dir():
        return []
    clips: list[Path] = []
    pending, visited = [root], {root.resolve()}  # symbolic links may form cycles
    while pending:
        for entry in pending.pop().iterdir():
            if entry.name.startswith("."):
                continue
            if is_video(entry):
                clips.append(entry)
            elif entry.is_dir() and (target := entry.resolve()) not in visited:
                visited.add(target)
                pending.append(entry)
    return sorted(clips, key=lambda path: natural_key(str(path)))


def is_video(path: str | Path) -> bool:
    """Check by names: a video file, or a folder of two or more images and no videos. WebP may be either."""
    path = Path(path)
    if path.is_dir():
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        suffixes = [entry.suffix.lower() for entry in entries]
        has_images = sum(suffix in IMAGE_SUFFIXES for suffix in suffixes) > 1
        return has_images and VIDEO_SUFFIXES.isdisjoint(suffixes) and not any(map(is_animated_webp, entries))
    return path.is_file() and (path.suffix.lower() in VIDEO_SUFFIXES or is_animated_webp(path))


def is_animated_webp(path: Path) -> bool:
    """Check the animation flag of a WebP file."""
    if path.suffix.lower() != ".webp" or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            header = stream.read(21)
    except OSError:  # reading it will name the error
        return False
    return header[:4] == b"RIFF" and header[8:16] == b"WEBPVP8X" and bool(header[20:21]) and bool(header[20] & 2)


def find_clip(folder: Path) -> Path | None:
    """Return ``folder``, or the packed video of the same name, or None if neither exists."""
    video = folder.with_name(folder.name + PACKED_SUFFIX)
    return folder if folder.is_dir() else video if video.is_file() else None


def is_image_pattern(path: Path) -> bool:
    """Check for a glob pattern in an existing folder that matches two or more files, all of them images."""
    if path.exists() or not glob.has_magic(path.name) or not path.parent.is_dir():
        return False
    matches = [entry for entry in path.parent.glob(path.name) if entry.name[0] != "."]
    return len(matches) > 1 and all(map(_is_image, matches))


def list_images(path: Path) -> list[Path]:
    """List the images in a folder, or those that match a glob pattern, in natural order; or the one image itself."""
    if path.is_file():
        return [path]
    entries = path.iterdir() if path.is_dir() else path.parent.glob(path.name)
    files = [file for file in entries if _is_image(file) and file.name[0] != "."]
    return sorted(files, key=lambda file: natural_key(file.name))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_animated_webp(path)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Split a name into a sort key that orders frame2 before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
