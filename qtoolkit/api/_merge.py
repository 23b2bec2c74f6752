"""Define the verb `merge`."""

from qtoolkit.jobs.merging import run_merge
from qtoolkit.quantized import QuantizedModel
from qtoolkit.requests import MergeRequest, verb


@verb(MergeRequest)
def merge(request: MergeRequest) -> QuantizedModel:
    """Make one quantized model of a quantized model and an adapter that was trained on it.

    Codes are not changed: the adapter is added to the full-precision base, weight by weight as it is read, and the sum
    is quantized in the same pass with the recipe of the model's receipt, or with another one. The base is the one that
    the receipt names, at its commit. What is quantized is the sum, so that its error is that of quantizing, and not of
    an adapter that was fitted to other codes. With `text`, model and adapter kept apart and the result are both
    measured beside base and adapter in full precision, and a note tells it.

    With `into_codes`, the adapter is added to the quantized weights: each gets the code next to it, of the same scales,
    and a note tells which share of the change that loses. Where the adapter is one of QA-LoRA (peft's `use_qalora`)
    and groups have a float minimum (MLX's, Q4_1, Q5_1), minima are moved and no code is touched.

    Returns:
        The quantized model, as `quantize` returns it; a note tells which adapter it holds.

    Raises:
        ConfigError: the adapter is one of another base, or of other shapes; the recipe cannot be used again.
        ModelNotFoundError: the base is not at hand.
        UnsafeCheckpointError: the adapter is pickled.
        UnsupportedModelError: the adapter is no LoRA of linear layers.
    """
    return run_merge(request)
