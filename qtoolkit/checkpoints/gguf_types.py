"""List the types of tensors that a `.gguf` file may hold, `enum ggml_type`, with the sizes of their blocks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StoredType:
    """A type of tensors.

    Attributes:
        name: as llama.cpp calls it, "Q4_K".
        number: of the type in a file.
        block_size: weights of a block; 1 for plain numbers.
        block_bytes: bytes of a block.
    """

    name: str
    number: int
    block_size: int
    block_bytes: int


# From `gguf.constants.GGML_QUANT_SIZES`; no file holds Q8_1 and Q8_K, to which llama.cpp rounds activations.
_SIZES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
STORED_TYPES = {number: StoredType(name, number, size, nbytes) for number, (name, size, nbytes) in _SIZES.items()}
# Types that llama.cpp had once, and reads no longer.
REMOVED_TYPES = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
# The first four bytes of llama.cpp's files before GGUF, which are numbers whose letters stand backwards.
OLD_MAGICS = {magic.encode()[::-1]: magic for magic in ("ggml", "ggmf", "ggjt", "ggla", "ggsn")}
