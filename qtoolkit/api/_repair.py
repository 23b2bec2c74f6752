"""Define the verb `repair`."""

from qtoolkit.jobs.repairing import run_repair
from qtoolkit.records import Repair
from qtoolkit.requests import RepairRequest, verb


@verb(RepairRequest)
def repair(request: RepairRequest) -> Repair:
    """Give a quantized model back some of what it lost, by a LoRA adapter that is computed and not trained.

    For each quantized layer, the two small matrices are found whose product, added to the quantized weight, brings the
    outputs on a calibration text closest to those of the base: a singular value decomposition of what is lacking,
    weighed by the inputs (QERA, EoRA). Layers are repaired in the order in which they run, each for what is left of the
    errors before it. The base is read block by block; the quantized model is in memory. It may be of any format that
    `qtoolkit.load` reads as layers, somebody else's too. Codes are not changed: the result is an adapter of peft, for
    transformers and for servers that take adapters, and belongs to this quantized model alone.

    Returns:
        Perplexity and KL divergence before and after, the bits per weight, and what the same bytes buy as codes.

    Raises:
        ConfigError: the rank is larger than a layer, or the base is another model.
        UnsupportedModelError: the model is not quantized, or the base is.
        OutputExistsError: the output exists.
    """
    return run_repair(request)
