"""Define the verb `load`."""

from typing import TYPE_CHECKING

from qtoolkit.jobs.checkpoint_loading import run_loading
from qtoolkit.requests import LoadRequest, verb

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.quantized import QuantizedModel


@verb(LoadRequest)
def load(request: LoadRequest) -> "QuantizedModel | PreTrainedModel":
    """Load what `quantize` saved, any bitsandbytes or GPTQ checkpoint, or a plain model.

    Returns:
        A `QuantizedModel`, or a `PreTrainedModel` if the checkpoint is in full precision.

    Raises:
        QToolkitError: as `quantize`.
    """
    return run_loading(request)
