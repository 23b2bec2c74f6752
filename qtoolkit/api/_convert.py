"""Define the verb `convert`."""

from qtoolkit.jobs.converting import run_conversion
from qtoolkit.jobs.converting_adapters import convert_adapter
from qtoolkit.jobs.verifying_adapters import holds_adapter
from qtoolkit.records import Conversion
from qtoolkit.requests import ConvertRequest, verb


@verb(ConvertRequest)
def convert(request: ConvertRequest) -> Conversion:
    """Write a quantized model in another format, with the same codes, scales and zero points, for other programs.

    Nothing is rounded anew: a format that cannot hold the codes is refused before any work, by one line that names one
    that can. With `lossy=True` alone, MLX and GGUF take asymmetric codes: the minimum of each group is rounded to the
    type of the file, and the largest change is a note of the result. Layers are read and written one after the other,
    of our own models and of those of others: GPTQ, compressed-tensors and MLX; absmax and zero-point as these or
    native; int8 W8A8 as weights alone, whose inputs are no longer rounded. "gptq_v2" is GPTQ's own second layout, which
    has room for zero points of 0. "gguf" is a file for llama.cpp, Ollama and LM Studio: symmetric codes of 4, 5 and 8
    bits as Q4_0, Q5_0 and Q8_0, asymmetric ones of 4 and 5 as Q4_1 and Q5_1 with `lossy=True`, and others in larger
    ones with `wider=True`. A folder with a LoRA adapter of peft becomes, as "gguf", what llama.cpp adds to such a file
    by `--lora`. Everything beside the weights is copied. With `executor`, workers make the blocks, each into a file
    beside the output, of which the same files are made as without.

    Returns:
        What was converted, the bytes before and after, and which programs run the result.

    Raises:
        ConfigError: no such format, one that does not hold the codes, or one that the program of `for_` does not load.
        UnsupportedModelError: the model is not quantized, its format is not read here, or llama.cpp has no such model.
        DiskFullError: there is no room for the result, or, with `executor`, for its blocks beside it.
        OutputExistsError: the output exists, or is the model's own folder.
    """
    return convert_adapter(request) if holds_adapter(request.model) else run_conversion(request)
