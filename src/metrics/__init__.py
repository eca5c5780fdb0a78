"""Image and video quality: functions of an estimate and a target, and scores gathered over a data set."""

from src.metrics.functional import (
    PEAK,
    SSIM_K1,
    SSIM_K2,
    SSIM_SIGMA,
    SSIM_WINDOW,
    psnr,
    psnr_oscillation,
    ssim,
    temporal_difference_error,
)
from src.metrics.scores import EXACT, FrameScore, Scores, average, summarise

__all__ = [
    "EXACT",
    "PEAK",
    "SSIM_K1",
    "SSIM_K2",
    "SSIM_SIGMA",
    "SSIM_WINDOW",
    "FrameScore",
    "Scores",
    "average",
    "psnr",
    "psnr_oscillation",
    "ssim",
    "summarise",
    "temporal_difference_error",
]
