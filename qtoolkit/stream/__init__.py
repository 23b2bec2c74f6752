"""Load, quantize and save models one weight or block at a time; results get their name when they are complete."""

from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.journal import Journal, JournalPlace, begun_recipe
from qtoolkit.stream.loading import calibration_dtype, compute_dtype_for, load_streamed
from qtoolkit.stream.products import fast_products
from qtoolkit.stream.run import Result, quantize_blocks
from qtoolkit.stream.staging import check_output, journal_of, staged
from qtoolkit.stream.writing import save_model, write_weights

__all__ = [
    "Journal",
    "JournalPlace",
    "Result",
    "StreamedModel",
    "begun_recipe",
    "calibration_dtype",
    "check_output",
    "compute_dtype_for",
    "fast_products",
    "journal_of",
    "load_streamed",
    "quantize_blocks",
    "save_model",
    "staged",
    "write_weights",
]
