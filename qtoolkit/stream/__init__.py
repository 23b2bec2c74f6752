"""Weights in and out, one at a time: models built from streamed weights, results written and renamed when whole."""

from qtoolkit.stream.loading import compute_dtype_for, load_streamed, quiet_transformers
from qtoolkit.stream.writing import check_output, save_model, staged, write_weights

__all__ = [
    "check_output",
    "compute_dtype_for",
    "load_streamed",
    "quiet_transformers",
    "save_model",
    "staged",
    "write_weights",
]
