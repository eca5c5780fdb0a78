"""Weights by name: list them, fetch them, verify those that are here; and pack a checkpoint into new ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from src.errors import UserError
from src.tasks.weights_pack import PackOptions, pack
from src.zoo import cache, find, locate, read_catalogue
from src.zoo.catalogue import Entry


@dataclass(frozen=True, kw_only=True)
class WeightsOptions(PackOptions):
    """Options of ``task=weights``; those of packing are inherited.

    Args:
        fetch: names of weights to have here.
        verify: hash all that are here.
    """

    fetch: str | list[str] | None = None
    verify: bool = False


def weights(config: DictConfig, directory: Path, *, options: WeightsOptions) -> None:
    """``task=weights``: list the weights of the catalogue, fetch or verify some, or pack a checkpoint.

    Raises:
        UserError: a name is unknown, a file cannot be fetched, one that is here is damaged, or a checkpoint cannot be
            packed.
    """
    if options.pack:
        pack(config, directory, options)
        return
    names = [options.fetch] if isinstance(options.fetch, str) else options.fetch or []
    for entry in [find(name) for name in names]:  # all are known before the first is fetched
        print(f"{entry.name}: {cache.find_file(entry) or locate(entry.name)}", flush=True)
    if options.verify:
        _verify()
    if not (names or options.verify):
        console = Console()
        (console if console.is_terminal else Console(width=200)).print(_build_table(list(read_catalogue().values())))
        print(f"checkpoint=<name> or task=weights fetch=<name> fetches into {cache.folder()}")


def _verify() -> None:
    """Print a line for each file, shipped or in the cache.

    Raises:
        UserError: a file does not have its hash, or cannot be read.
    """
    entries, damaged, unreadable = list(read_catalogue().values()), list[Path](), list[Path]()
    shipped = {entry.shipped: entry for entry in entries if entry.shipped.is_file()}
    named = {cache.folder() / entry.cached: entry for entry in entries}
    files = [*shipped, *cache.list_files()]
    for path in files:
        try:
            digest = cache.digest(path, anew=True)
        except OSError as error:
            print(f"!!  {path} cannot be read ({error.strerror})")
            unreadable.append(path)
            continue
        due = shipped.get(path) or named.get(path)
        found = next((entry for entry in [due or entries[0], *entries] if entry.matches(digest)), None)
        if found and found is (due or found):
            print(f"ok  {found.name}: {path}")
        elif due:
            print(f"!!  {due.name}: {path} has the sha256 {digest['sha256']}, not {due.identity}")
            damaged.append(path)
        else:
            print(f"no  {path} belongs to no name (sha256 {digest['sha256']})")
    if bad := damaged + unreadable:
        fault = "damaged" if not unreadable else "damaged or unreadable" if damaged else "unreadable"
        names = ", ".join(map(str, bad))
        raise UserError(f"{len(bad)} of {len(files)} files {'is' if len(bad) == 1 else 'are'} {fault}: delete {names}.")


def _build_table(entries: list[Entry]) -> Table:
    table = Table(title="Weights")
    for title in ("name", "does", "network", "MB", "licence", "score", "here"):
        table.add_column(title, justify="right" if title == "MB" else "left", no_wrap=title == "name")
    for entry in entries:
        path = cache.find_file(entry)
        here = "shipped" if path == entry.shipped else "yes" if path else ""
        scores = "\n".join(
            f"{score.psnr:.2f} dB, {score.data} {'luma' if score.channel == 'y' else 'RGB'}" for score in entry.scores
        )
        cells = (_size(entry, path), entry.licence or "", scores, here)
        table.add_row(entry.name, _describe(entry), entry.network, *cells)
    return table


def _size(entry: Entry, path: Path | None) -> str:
    """Return the size of a file in MB; that of its weights alone, marked by ``~``, where it is not known."""
    size = path.stat().st_size if path else entry.size
    return f"{size / 1e6:.1f}" if size else f"~{4 * entry.parameters / 1e6:.0f}" if entry.parameters else ""


def _describe(entry: Entry) -> str:
    """Describe what weights do, in short."""
    scale = f"x{entry.scale} " if entry.scale and entry.scale > 1 else ""
    counts = (entry.frames_in, entry.frames_out)
    frames = ", frame by frame" if counts == (1, 1) else f", {counts[0]} frames to {counts[1]}" if all(counts) else ""
    return f"{scale}{entry.task}{frames}"
