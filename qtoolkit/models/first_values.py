"""Find the layers whose weight a model gives first values to: transformers does so before it expands packed codes."""

from collections.abc import Iterator, Sequence

from torch import nn
from transformers import PreTrainedModel


def layers_given_first_values(model: PreTrainedModel, names: Sequence[str]) -> tuple[str, ...]:
    """Return the layers without whose weight the class around them cannot give the model its first values.

    transformers 5 calls `_init_weights` for each module of a checkpoint, and keeps what was loaded. A layer of packed
    codes has no `weight`, and SigLIP's reads it: the checkpoint is not opened. One module of each class is tried, for
    all of that class.

    Source: transformers 5.23, `PreTrainedModel.initialize_weights`.

    Args:
        model: on the meta device.
        names: full names of the layers that will hold codes; those that are no linear layers of the model do not count.
    """
    packed = {name for name in names if isinstance(_module(model, name), nn.Linear)}
    tried: dict[tuple[type, type], bool] = {}
    found = []
    for owner, name, module in _owned(model, model, ""):
        children = (f"{name}.{own}" if name else own for own, _ in module.named_children())
        inside = [one for one in (name, *children) if one in packed]
        if not inside:
            continue
        key = (type(owner), type(module))
        if key not in tried:
            tried[key] = _fails_without_weights(owner, module, [model.get_submodule(one) for one in inside])
        found += inside if tried[key] else []
    return tuple(dict.fromkeys(found))


def _module(model: PreTrainedModel, name: str) -> nn.Module | None:
    """Return a module; None where the model has none of this name."""
    try:
        found: nn.Module = model.get_submodule(name)
    except AttributeError:
        return None
    return found


def _owned(owner: PreTrainedModel, module: nn.Module, name: str) -> Iterator[tuple[PreTrainedModel, str, nn.Module]]:
    """Yield all modules with their full names, and the model whose `_init_weights` gives them their first values."""
    owner = module if isinstance(module, PreTrainedModel) else owner
    if type(owner)._init_weights is not PreTrainedModel._init_weights:  # noqa: SLF001
        yield owner, name, module
    for own, child in module.named_children():
        yield from _owned(owner, child, f"{name}.{own}" if name else own)


def _fails_without_weights(owner: PreTrainedModel, module: nn.Module, layers: list[nn.Module]) -> bool:
    """Check whether a model cannot give a module first values where these layers have no weight."""
    weights = [layer._parameters.pop("weight") for layer in layers]  # noqa: SLF001
    try:
        owner._init_weights(module)  # noqa: SLF001
    except AttributeError:
        return True
    finally:
        for layer, weight in zip(layers, weights, strict=True):
            layer._parameters["weight"] = weight  # noqa: SLF001
    return False
