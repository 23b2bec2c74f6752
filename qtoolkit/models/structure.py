"""Find the linear layers, tied weights, blocks and output head of a model by its modules alone."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from qtoolkit.models.empty_runs import run_without_values

_TOKENS = 2


def is_linear(module: nn.Module) -> bool:
    """Check whether a module is a linear layer that can be replaced: nn.Linear, GPT-2's transposed Conv1D, Falcon's.

    Falcon's own class computes the same as nn.Linear; other subclasses compute more.
    """
    return type(module) is nn.Linear or isinstance(module, Conv1D) or has_own_class(module)


def has_own_class(module: nn.Module) -> bool:
    """Check whether a linear layer is of a class of its own, which computes as nn.Linear does: Falcon's."""
    return type(module).__name__ == "FalconLinear"


def is_transposed(module: nn.Module) -> bool:
    """Check whether a linear layer holds its weight as [in, out]: GPT-2's Conv1D."""
    return isinstance(module, Conv1D)


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """Return (out_features, in_features) of a linear layer."""
    if isinstance(module, Conv1D):
        in_features, out_features = module.weight.shape
        return out_features, in_features
    assert isinstance(module, nn.Linear)
    return module.out_features, module.in_features


def modules_with_weights(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module that has parameters of its own, with its full name."""
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            yield name, module


def tied_to(model: PreTrainedModel) -> dict[str, str]:
    """Return, for each module, the module whose weight it shares; both ways, so that neither is replaced alone."""
    owners: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, module in modules_with_weights(model):
        for parameter in module.parameters(recurse=False):
            owner = owners.setdefault(id(parameter), name)
            if owner != name:
                tied[name], tied[owner] = owner, name
    return tied


def output_head(model: PreTrainedModel) -> str | None:
    """Return the name of the module that turns hidden states into logits; None where there is none."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)


def token_embedding(model: PreTrainedModel) -> str | None:
    """Return the name of the module that turns tokens into hidden states; None where no plain look-up does."""
    module = model.get_input_embeddings()
    if not is_embedding(module):
        return None
    return next((name for name, other in model.named_modules() if other is module), None)


def is_embedding(module: nn.Module | None) -> bool:
    """Check whether a module looks up rows, and at most multiplies them with one number, as Gemma's embedding does."""
    return type(module) is nn.Embedding or (isinstance(module, nn.Embedding) and embedding_factor(module) is not None)


def embedding_factor(module: nn.Module) -> float | None:
    """Return what an embedding multiplies its rows by; None for nothing."""
    factor = getattr(module, "scalar_embed_scale", None)
    return factor if isinstance(factor, float) else None


def block_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList] | None:
    """Return the name and the list of a model's blocks: a list of as many modules as the config has layers.

    Of several, since towers of images may be as deep as the text's model, it is the one that a text reaches first.
    Where the model does not run without values, it is the one nearest to the token embedding, and the first of these,
    since lists within blocks (experts) come later. LongCat-Flash counts two layers for each block, and has the number
    of its blocks beside that.
    """
    config = model.config.get_text_config()
    counts = {getattr(config, name, None) for name in ("num_hidden_layers", "num_layers")}
    lists = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    found = [(name, module) for name, module in lists if len(module) and len(module) in counts]
    reached = _first_called(model, [module for _, module in found]) if len(found) > 1 else None
    if reached is not None:
        return next(one for one in found if one[1] is reached)
    tokens = model.get_input_embeddings()
    embedding = next((name for name, module in model.named_modules() if module is tokens), "")
    return max(found, key=lambda one: _num_shared(one[0], embedding), default=None)


class _Reached(Exception):  # how a forward is left, no error
    """Leave a model's forward at the first block."""


def _first_called(model: PreTrainedModel, lists: list[nn.ModuleList]) -> nn.ModuleList | None:
    """Run a text on the meta device up to the first of some lists whose first module is called; None where none is."""
    called: list[nn.ModuleList] = []

    def note(module: nn.ModuleList, *_: Any) -> None:
        called.append(module)
        raise _Reached

    hooks = [module[0].register_forward_pre_hook(partial(note, module)) for module in lists]
    try:
        run_without_values(model, _TOKENS)
    finally:
        for hook in hooks:
            hook.remove()
    return called[0] if called else None


def _num_shared(one: str, other: str) -> int:
    """Return how many modules the full names of two begin with in common."""
    pairs = list(zip(one.split("."), other.split("."), strict=False))
    return next((index for index, (first, second) in enumerate(pairs) if first != second), len(pairs))


def parts_beside_text(model: PreTrainedModel) -> dict[str, str]:
    """Return the modules that lie outside the language model, each with the part that it is in.

    transformers makes a model of each tower: the language model is the innermost one that holds the token embedding,
    with the output head. The rest are towers for images and sound, and what projects their outputs.

    Returns:
        Names, "model.vision_tower.encoder.layers.0.mlp.fc1", and parts, "model.vision_tower".
    """
    head, tokens = model.get_output_embeddings(), model.get_input_embeddings()
    around: dict[str, str] = {}
    for name, module in model.named_modules():
        around[name] = name if isinstance(module, PreTrainedModel) else around[name.rpartition(".")[0]]
    text = next((around[name] for name, module in model.named_modules() if module is tokens), "")
    outside = [name for name, module in model.named_modules() if around[name] != text and module is not head]
    return {name: part for name in outside if (part := _part(name, text))}


def _part(name: str, text: str) -> str:
    """Return the module below which a name parts from that of the language model; empty for one around that."""
    path = name.split(".")
    part = ".".join(path[: _num_shared(name, text) + 1])
    return "" if f"{text}.".startswith(f"{part}.") else part


def kind_of(module: nn.Module) -> str:
    """Name the kind of a module that is no linear layer, for the reason why it is not quantized."""
    if isinstance(module, nn.Embedding):
        return "embedding"
    name = type(module).__name__
    if "norm" in name.lower():
        return "norm"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "convolution"
    if "expert" in name.lower() and any(parameter.dim() == 3 for parameter in module.parameters(recurse=False)):
        return f"experts in one tensor ({name})"
    return f"not a linear layer ({name})"
