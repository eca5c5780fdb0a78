"""The sweeper of studies: cross the combinations of Hydra's basic sweeper with named points (lists of overrides)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from src.config.overrides import by_place, translate
from src.errors import UserError


class Points(BasicSweeper):
    """``hydra/sweeper=points``, the default.

    Args:
        max_batch_size: points that the launcher gets at a time; None: all.
        params: values of options, as for Hydra's basic sweeper; every combination is a point.
        points: overrides by the name of a point, crossed with ``params``. Typed options replace those of a point.
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        points: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        # not super().__init__: Hydra's search for plugins executes the module of BasicSweeper again, so that its own
        # super(BasicSweeper, self) names another class
        self.max_batch_size, self.params, self.points = max_batch_size, params or {}, points or {}
        self.overrides, self.batch_index = None, 0
        self.hydra_context = self.config = self.launcher = None

    def _parse_config(self) -> list[str]:
        return translate(BasicSweeper._parse_config(self))

    def split_arguments(  # type: ignore[override]  # a static method there
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        for override in overrides:
            if override.is_interval_sweep():
                key = by_place(f"{override.get_key_element()}=")
                raise UserError(
                    f"{override.input_line}: a sweep tries single values; list them, or write {key}range(<first>,<end>,"
                    "<step>)."
                )
        (combinations,) = BasicSweeper.split_arguments(overrides, None)
        typed = {override.get_key_element() for override in overrides}
        points = map(translate, self.points.values())
        named = [[override for override in point if override.partition("=")[0] not in typed] for point in points]
        jobs = [[*point, *combination] for point in named or [[]] for combination in combinations]
        return list(self.split_overrides_to_chunks(jobs, max_batch_size))
