"""The reader contract as data: which program loads which format, under which conditions, and who says so.

Sources were read in the wheels that PyPI served on 2026-11-28; `make readers` reads them again, and tells what moved.
First versions were found in older wheels on 2026-11-29: the first that has what the newest recognizes such a model by.
"""

from qtoolkit.readers.eight_bits_table import EIGHT_BITS
from qtoolkit.readers.floats_table import BLOCK_FLOAT8, FBGEMM, FLOAT4, MIXED_SIZES, MODELOPT, MXFP4
from qtoolkit.readers.gptq_table import AUTO_ROUND, AWQ, GPTQ
from qtoolkit.readers.other_tables import BNB, GGUF, MLX, NATIVE, PLAIN
from qtoolkit.readers.packed_table import PACKED

ENTRIES = (
    *(*GPTQ, *PACKED, *EIGHT_BITS, *FLOAT4, *BNB, *MLX, *GGUF),
    *(*AWQ, *AUTO_ROUND, *BLOCK_FLOAT8, *FBGEMM, *MXFP4, *MODELOPT, *MIXED_SIZES, *NATIVE, *PLAIN),
)

# The columns of the table in docs/readers.md: formats, what inputs are rounded to, and titles.
COLUMNS = (
    ("gptq", "", "GPTQ"),
    ("compressed-tensors", "", "compressed-tensors (pack-quantized)"),
    ("compressed-tensors", "float8", "FP8"),
    ("compressed-tensors", "int8", "int8 W8A8"),
    ("mlx", "", "MLX"),
    ("bitsandbytes", "", "NF4, FP4, int8"),
    ("native", "", "absmax, zero-point in format native"),
    ("gguf", "", ".gguf"),
)
# The format whose rows have a limit on groups for each program, which a page tells.
GROUPS_OF, _, GROUPS_TITLE = COLUMNS[0]
