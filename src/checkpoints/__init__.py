"""Load networks from files of the suite and of published implementations, and write files of weights."""

from src.checkpoints.descriptions import CASCADE, MAX_DEPTH, MOVED, RENAMED, build
from src.checkpoints.files import read_contents
from src.checkpoints.loading import cascade, load
from src.checkpoints.references import find_references, from_reference

__all__ = [
    "CASCADE",
    "MAX_DEPTH",
    "MOVED",
    "RENAMED",
    "build",
    "cascade",
    "find_references",
    "from_reference",
    "load",
    "read_contents",
]
