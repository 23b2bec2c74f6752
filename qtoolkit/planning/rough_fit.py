"""Tell from the size of its files alone whether a model will roughly fit; a plan reads headers, and tells exactly."""

# What the process has once torch and transformers are imported: 0.55 GB measured, and buffers.
_LIBRARIES = 700_000_000
# Of weights of 16 bits: four bits and scales, and the embeddings, which stay as they are.
_RESULT_SHARE = 0.45


def roughly_fits(size: int, room: int, *, quantized: bool) -> bool:
    """Return whether a model can be quantized to four bits, or loaded if it is quantized already, in main memory.

    Args:
        size: bytes of its weight files.
        room: bytes of main memory that are free.
        quantized: whether it is quantized already, and would be loaded whole.
    """
    return _LIBRARIES + (1.0 if quantized else _RESULT_SHARE) * size <= room
