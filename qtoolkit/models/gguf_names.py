"""Find the names of a model's tensors in a `.gguf` file, by the table of the `gguf` package."""

from collections.abc import Iterable

from qtoolkit.optional import optional


def names_in_file(architecture: str, layers: int, names: Iterable[str]) -> dict[str, str]:
    """Return llama.cpp's names of a model's tensors, each with the name that the model has for it.

    Args:
        architecture: llama.cpp's name of the kind of model, "llama".
        layers: its blocks.
        names: of the tensors in the model.

    Example:
        >>> names_in_file("llama", 1, ["model.layers.0.self_attn.q_proj.weight"])
        {'blk.0.attn_q.weight': 'model.layers.0.self_attn.q_proj.weight'}
    """
    gguf = optional("gguf", "reading .gguf files")
    kind = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(kind, layers)
    found = {}
    for name in names:
        module, _, end = name.rpartition(".")
        stored = table.get_name(module)
        if stored is not None:
            found[f"{stored}.{end}"] = name
    return found
