"""Load networks from files of the suite and of published implementations, and write files of weights."""

from src.checkpoints.descriptions import CASCADE, FROZEN, MAX_DEPTH, MOVED, RENAMED, build
from src.checkpoints.files import read_contents, read_step
from src.checkpoints.loading import cascade, load, load_frozen
from src.checkpoints.packing import save
from src.checkpoints.references import find_references, from_reference
from src.trust import trust

__all__ = [
    "CASCADE",
    "FROZEN",
    "MAX_DEPTH",
    "MOVED",
    "RENAMED",
    "build",
    "cascade",
    "find_references",
    "from_reference",
    "load",
    "load_frozen",
    "read_contents",
    "read_step",
    "save",
    "trust",
]
