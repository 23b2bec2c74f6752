"""Where a model comes from: the Hub, a folder, a `.gguf` file, or memory."""

from qtoolkit.source.checkpoint import Checkpoint
from qtoolkit.source.hub import Snapshot, fetch, local_models
from qtoolkit.source.opening import load_tokenizer, open_checkpoint
from qtoolkit.source.weights import StoredTensor, read_tensors

__all__ = [
    "Checkpoint",
    "Snapshot",
    "StoredTensor",
    "fetch",
    "load_tokenizer",
    "local_models",
    "open_checkpoint",
    "read_tensors",
]
