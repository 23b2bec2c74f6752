"""Define the verb `quantize`."""

from qtoolkit.jobs.quantizing import run_quantization
from qtoolkit.quantized import QuantizedModel
from qtoolkit.requests import QuantizeRequest, verb


@verb(QuantizeRequest)
def quantize(request: QuantizeRequest) -> QuantizedModel:
    """Make a model small, weight by weight: the full-precision model is never in memory as a whole.

    A config is `qt.NF4()`, "nf4" or a `BitsAndBytesConfig`, for example. Methods with calibration write each block to
    `OUTPUT.partial/journal` as soon as it is done, and `resume` goes on from there. An output folder that is replaced
    stays until the new one is complete. A revision is pinned to a commit.

    Returns:
        The quantized model, with memory before, after and at the peak, and what was skipped and why.

    Raises:
        QToolkitError: one line that says what is wrong and what to do; before work starts where that can be.
    """
    return run_quantization(request)
