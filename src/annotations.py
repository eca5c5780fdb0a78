"""Annotations of the signatures that a configuration describes. Bounds of numbers come from ``annotated_types``."""

from __future__ import annotations

from typing import Annotated, TypeVar

T = TypeVar("T")


class ProvidedMarker:
    """Metadata of an argument that code provides."""


Provided = Annotated[T, ProvidedMarker()]
"""An argument that code provides: ``geometry: Provided[Geometry]``. A configuration that sets it is refused."""
