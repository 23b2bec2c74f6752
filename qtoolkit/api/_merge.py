"""Define the verb `merge`."""

from qtoolkit.jobs.merging import run_merge
from qtoolkit.quantized import QuantizedModel
from qtoolkit.requests import MergeRequest, verb


@verb(MergeRequest)
def merge(request: MergeRequest) -> QuantizedModel:
    """Make one quantized model of a quantized model and an adapter that was trained on it.

    Codes are not changed: the adapter is added to the full-precision base, weight by weight as it is read, and the sum
    is quantized in the same pass with the recipe of the model's receipt, or with another one. The base is the one that
    the receipt names, at its commit. Measure it with `qt.evaluate`: what is quantized is the sum, so that its error is
    that of quantizing, and not of an adapter that was fitted to other codes.

    Returns:
        The quantized model, as `quantize` returns it; a note tells which adapter it holds.

    Raises:
        ConfigError: the adapter is one of another base, or of other shapes; the recipe cannot be used again.
        ModelNotFoundError: the base is not at hand.
        UnsafeCheckpointError: the adapter is pickled.
        UnsupportedModelError: the adapter is no LoRA of linear layers.
    """
    return run_merge(request)
