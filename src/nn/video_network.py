"""The contract between a network and everything that trains, scores or restores with it.

Shapes: B batch, T input frames, T' output frames, H height, W width, s scale.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from src.errors import UserError
from src.geometry import Geometry


class VideoNetwork(nn.Module):
    """A network that maps a clip (B, T, 3, H, W), RGB in [0, 1], to a clip (B, T', 3, s*H, s*W), any H and W.

    A subclass sets ``geometry`` and defines ``forward``; every other member has a default that suits an ordinary
    network. A plain :class:`torch.nn.Module` with a ``geometry`` serves as well (:func:`as_video_network`).

    Attributes:
        geometry: the effect on time and space: scale, window, output times, stride.
        temporal_padding: input frames on either side of a pass that serve as context only. A network that sets it
            accepts passes of any length, and ``forward(clip, padding=n)`` for any other number.
        encode_window: number of consecutive input frames that :meth:`encode_frames` needs for each feature.
        average_overlaps: whether an output that several windows make is their mean; otherwise it is the first window's.
        tile_overlap: overlap of tiles, in input pixels, at which tiled output equals untiled output to 1e-3.
    """

    geometry: Geometry
    temporal_padding: int | None = None
    encode_window: int = 1
    average_overlaps: bool = False
    tile_overlap: int = 32

    @property
    def training_geometry(self) -> Geometry:
        """The geometry of training samples: that of the network, unless training supervises more frames."""
        return self.geometry

    def encode_frames(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Compute per-frame features (B, T, ...), cached and reused by overlapping windows; by default the frames.

        With an ``encode_window`` of n, feature t depends on frames t to t + n - 1, so there are T - n + 1 of them.
        """
        return (clip,)

    def decode_window(self, *features: Tensor, **options: Any) -> Tensor:
        """Restore the output frames (B, T', 3, s*H, s*W) of one window from the features of its frames.

        ``options`` holds ``padding`` if a network with a temporal padding runs with another one.
        """
        return self(*features, **options)

    def between(self, before: Tensor, after: Tensor, time: Fraction) -> Tensor | None:
        """Make the frame at a time in (0, 1) between two neighbouring output frames, all (..., 3, s*H, s*W).

        None for networks that make no times but those of their geometry.
        """
        return None

    def remarks(self) -> list[str]:
        """Return sentences on the frames made since the last call that their user should know; none by default."""
        return []

    def motion(self) -> VideoNetwork | None:
        """Return a network whose output frames picture the motion that this one estimates; None if it has none."""
        return None

    def attention(self) -> VideoNetwork | None:
        """Return a network whose output frames picture this one's temporal attention; None if it has none."""
        return None


class _PlainNetwork(VideoNetwork):
    """A plain module behind the contract's defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        try:
            self.geometry = network.geometry  # type: ignore[assignment]
        except AttributeError as error:
            raise UserError(
                f"{type(network).__name__} has no geometry: set self.geometry = Geometry(scale, window, times) in its "
                "__init__, as src.geometry explains."
            ) from error

    def forward(self, clip: Tensor) -> Tensor:
        return self.network(clip)


def as_video_network(network: nn.Module) -> VideoNetwork:
    """Return a network that keeps the contract: ``network`` itself, or a wrapper with defaults around a plain module.

    Raises:
        UserError: a plain module has no ``geometry``.
    """
    return network if isinstance(network, VideoNetwork) else _PlainNetwork(network)
