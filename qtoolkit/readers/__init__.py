"""The reader contract: which program loads a model as it is stored, since which version, why not, and what to do."""

from qtoolkit.readers.asked import READER_NAMES, asked_version, check_reader
from qtoolkit.readers.contract import (
    asks_for_first_values,
    lost_readers,
    readers_of,
    reading_of,
    refusing_mixed_units,
    running,
    served_by,
    titles,
)
from qtoolkit.readers.fused_layers import FUSED, fused_unit, units_of
from qtoolkit.readers.matrices import within_block
from qtoolkit.readers.programs import BRANCHES
from qtoolkit.readers.sentences import card_lines, load_lines, page_table, result_line, summary
from qtoolkit.readers.stored import Stored, describe_stored, group_size_of
from qtoolkit.readers.whole_units import advice_on_units

__all__ = [
    "BRANCHES",
    "FUSED",
    "READER_NAMES",
    "Stored",
    "advice_on_units",
    "asked_version",
    "asks_for_first_values",
    "card_lines",
    "check_reader",
    "describe_stored",
    "fused_unit",
    "group_size_of",
    "load_lines",
    "lost_readers",
    "page_table",
    "readers_of",
    "reading_of",
    "refusing_mixed_units",
    "result_line",
    "running",
    "served_by",
    "summary",
    "titles",
    "units_of",
    "within_block",
]
