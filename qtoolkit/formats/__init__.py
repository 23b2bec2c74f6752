"""Store, read and describe quantized weights in files: one package for each format, and the registry of all."""

from qtoolkit.formats.base import Format, Layers, LayersOf, Planner, Reader, Sizes, is_uneven
from qtoolkit.formats.file_format import FileFormat, FilePlanner, LowRankChange, in_full_precision
from qtoolkit.formats.file_of_codes import FileOfCodes, FilePart, Unheld
from qtoolkit.formats.grouped import OUT_OF_ORDER, Grid, GroupedFormat, RecodedLayers, base_grid
from qtoolkit.formats.layer import Layer
from qtoolkit.formats.layers_format import LayersFormat
from qtoolkit.formats.patched_modules import patched_modules
from qtoolkit.formats.registry import (
    available_formats,
    check_embeddings,
    conversion_targets,
    format_of,
    get_format,
    get_grouped_format,
    packages_of_format,
    quiet_layers,
    register_formats,
    side_file_names,
    side_files_of,
)

__all__ = [
    "OUT_OF_ORDER",
    "FileFormat",
    "FileOfCodes",
    "FilePart",
    "FilePlanner",
    "Format",
    "Grid",
    "GroupedFormat",
    "Layer",
    "Layers",
    "LayersFormat",
    "LayersOf",
    "LowRankChange",
    "Planner",
    "Reader",
    "RecodedLayers",
    "Sizes",
    "Unheld",
    "available_formats",
    "base_grid",
    "check_embeddings",
    "conversion_targets",
    "format_of",
    "get_format",
    "get_grouped_format",
    "in_full_precision",
    "is_uneven",
    "packages_of_format",
    "patched_modules",
    "quiet_layers",
    "register_formats",
    "side_file_names",
    "side_files_of",
]
