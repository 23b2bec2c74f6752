"""Weights in and out, one at a time: models built from streamed weights, results written and renamed when whole."""

from qtoolkit.stream.loading import compute_dtype_for, load_streamed
from qtoolkit.stream.staging import check_output, staged
from qtoolkit.stream.writing import save_model, write_weights

__all__ = [
    "check_output",
    "compute_dtype_for",
    "load_streamed",
    "save_model",
    "staged",
    "write_weights",
]
