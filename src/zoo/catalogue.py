"""The catalogue of weights, ``entries.yaml``: where each file lies, how it is recognised, and what it scores."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.errors import CheckpointError

FILE = Path(__file__).with_name("entries.yaml")
SHIPPED = Path(__file__).with_name("shipped")
KINDS = ("network", "backbone")
CHANNELS = ("rgb", "y", "rgb_mean")  # of src.protocols.Protocol
HASHES = {"sha256": r"[0-9a-f]{64}", "sha256_prefix": r"[0-9a-f]{8,63}", "git_blob": r"[0-9a-f]{40}"}


@dataclass(frozen=True, kw_only=True)
class Score:
    """A published score.

    Args:
        data, protocol: names, as in ``task=evaluate data=<data> protocol=<protocol>``.
        overrides: further overrides that reproduce it.
        channel: of the protocol.
        psnr, ssim: mean over the clips; PSNR in dB.
        source: who published it, and where.
    """

    data: str
    protocol: str
    overrides: list[str] = field(default_factory=list)
    channel: str
    psnr: float
    ssim: float | None = None
    source: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of weights. None: not known.

    Args:
        name: as in ``checkpoint=<name>``.
        kind: ``network``, or ``backbone``: a classifier that others take features of.
        network: the architecture, in words.
        task: what it does, in words.
        scale: output pixels for each input pixel, along a side.
        frames_in, frames_out: of one pass.
        file: the publisher's name of the file.
        addresses: where it lies, in the order to try.
        by_hand: addresses that may answer with a page for a person; tried last.
        sha256, sha256_prefix, git_blob: of the file; the blob id is Git's sha1 over a header and the bytes.
        size: in bytes.
        parameters: number of weights.
        licence: SPDX identifier.
        paper: citation.
        data: what it was trained on.
        steps: of the optimiser.
        scores: published ones.

    Raises:
        ValueError: a value is malformed, or nothing identifies the file.
    """

    name: str
    kind: str = "network"
    network: str
    task: str
    scale: int | None = None
    frames_in: int | None = None
    frames_out: int | None = None
    file: str | None = None
    addresses: list[str] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)
    sha256: str | None = None
    sha256_prefix: str | None = None
    git_blob: str | None = None
    size: int | None = None
    parameters: int | None = None
    licence: str | None = None
    paper: str | None = None
    data: str | None = None
    steps: int | None = None
    scores: list[Score] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"{self.name!r} is no name: lower case, digits and underscores")
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, not one of {', '.join(KINDS)}")
        for name, pattern in HASHES.items():
            value = getattr(self, name)
            if value is not None and not re.fullmatch(pattern, value):
                raise ValueError(f"{name} is {value!r}, which is malformed")
        if not any(getattr(self, name) for name in HASHES):
            raise ValueError(f"it needs one of {', '.join(HASHES)}")
        for address in (*self.addresses, *self.by_hand):
            if not re.match(r"https?://\S+$", address):
                raise ValueError(f"{address!r} is no address")
        if odd := [score.channel for score in self.scores if score.channel not in CHANNELS]:
            raise ValueError(f"channel is {odd[0]!r}, not one of {', '.join(CHANNELS)}")

    @property
    def shipped(self) -> Path:
        """Where the file lies if it comes with the suite."""
        return SHIPPED / f"{self.name}.safetensors"

    @property
    def cached(self) -> str:
        """Name of the file in the cache."""
        digest = self.sha256 or self.sha256_prefix or self.git_blob or ""
        return f"{self.name}-{digest[:8]}{Path(self.file or '.safetensors').suffix or '.pth'}"

    @property
    def identity(self) -> str:
        """The expected hash, in words."""
        if self.sha256 or self.sha256_prefix:
            return f"sha256 {self.sha256 or f'{self.sha256_prefix}...'}"
        return f"git blob {self.git_blob}"

    def matches(self, digests: Mapping[str, Any]) -> bool:
        """Compare with the ``sha256`` and ``git_blob`` of a file."""
        return (
            (self.sha256 is None or digests["sha256"] == self.sha256)
            and digests["sha256"].startswith(self.sha256_prefix or "")
            and (self.git_blob is None or digests["git_blob"] == self.git_blob)
        )


def read_catalogue(file: Path | None = None) -> dict[str, Entry]:
    """Read the entries by name.

    Raises:
        CheckpointError: an entry is malformed; the message names it.
    """
    return _read(file or FILE)


@cache
def _read(file: Path) -> dict[str, Entry]:
    entries: dict[str, Any] = {}
    content: Any = OmegaConf.load(file)
    for name, node in content.items():
        try:
            entries[name] = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Entry), node, {"name": name}))
        except (OmegaConfBaseException, TypeError, ValueError) as error:
            reason, place = str(error).splitlines()[0].rstrip("."), getattr(error, "full_key", None)
            where = f" at {place}" if place else ""
            raise CheckpointError(f"The entry {name} of {file} is malformed{where}: {reason}.") from error
    return entries


def find(name: str) -> Entry:
    """Return the entry of a name.

    Raises:
        CheckpointError: there is none; the message suggests the nearest name.
    """
    entries = read_catalogue()
    if name in entries:
        return entries[name]
    is_path = "/" in name or "." in name
    near = difflib.get_close_matches(name, entries, n=1, cutoff=0.8 if is_path else 0.5)
    otherwise = "give a .ckpt, .pth or .safetensors file, or a name: task=weights lists the names."
    hint = f"did you mean {near[0]}?" if near else otherwise
    raise CheckpointError(f"There is no checkpoint {name}; {hint}")
