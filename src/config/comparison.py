"""Published scores of named weights under the conditions of a configuration."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from src.config.composition import compose, to_plain
from src.zoo import find, is_name
from src.zoo.catalogue import Score

OF_DATA = ("layout", "source_size", "source_reduction", "test_frames")  # options that change what is scored
NOT_OF_SCORES = ("name", "tile", "overlap")  # options of a protocol that do not


def find_published(config: DictConfig) -> list[Score]:
    """Return the published scores of ``checkpoint`` on the same data under the same protocol."""
    conditions = _list_conditions(config)
    return [score for score in _list_scores(config) if _list_conditions(compose(*command_of(score))) == conditions]


def describe_published(config: DictConfig, summary: dict[str, Any]) -> list[str]:
    """Describe the published scores of ``checkpoint`` in lines, beside those of ``summary``; empty without any."""
    lines = []
    for score in find_published(config):
        ours = [f"{summary['psnr']:.2f} dB ({summary['psnr'] - score.psnr:+.2f})"] if summary.get("psnr") else []
        published = f"{score.psnr:.2f} dB"
        if score.ssim is not None:
            published += f", SSIM {score.ssim:.4f}"
            if summary.get("ssim"):
                ours.append(f"SSIM {summary['ssim']:.4f} ({summary['ssim'] - score.ssim:+.4f})")
        lines.append(f"Published: {published} ({score.source}); here: {', '.join(ours) or 'none'}")
    if not lines:
        for score in _list_scores(config):
            lines.append(f"Published under other conditions: {score.psnr:.2f} dB, with {' '.join(command_of(score))}")
    return lines


def command_of(score: Score) -> list[str]:
    """Return the overrides that repeat a published score, without the checkpoint."""
    return ["task=evaluate", f"data={score.data}", f"protocol={score.protocol}", *score.overrides]


def _list_scores(config: DictConfig) -> list[Score]:
    return find(config.checkpoint).scores if is_name(config.checkpoint) else []


def _list_conditions(config: DictConfig) -> dict[str, Any]:
    """Return all options that change what is scored and how."""
    data, protocol = to_plain(config.data), to_plain(config.protocol)
    return {
        "data": {name: data.get(name) for name in OF_DATA},
        "protocol": {name: value for name, value in protocol.items() if name not in NOT_OF_SCORES},
        "degradation": to_plain(config.degradation),
    }
