"""Find the experts of a model that can be taken apart, and replace them by linear layers."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import Transpose, WeightConverter

from qtoolkit.errors import CheckpointError
from qtoolkit.models.empty_models import NoValues
from qtoolkit.models.experts.expert_layouts import ExpertLayout, layout_of
from qtoolkit.models.experts.expert_list import one_expert, taken_apart
from qtoolkit.models.structure import modules_with_weights

# Published models have up to 61 x 384; each becomes three linear layers.
MAX_EXPERTS = 50_000
Names = tuple[str, ...]
# What layers are called where checkpoints keep experts in one tensor. vLLM knows those of Mixtral in Granite's
# models (granitemoe.py, `load_weights`), and these in Llama 4's.
_NAMES: Names = ("gate_proj", "up_proj", "down_proj")
_NAMES_OF_MIXTRAL: Names = ("w1", "w3", "w2")
_MERGED = re.compile(r"(.*\.)?experts\.(gate_up_proj|up_proj|down_proj)")


def experts_in_one_tensor(model: nn.Module, quantized: Iterable[str] = ()) -> set[str]:
    """Return patterns of the experts that stay as they are in tensors [experts, rows, columns], for lists of names.

    vLLM looks for the layers of the first one, "experts.0.gate_proj" (compressed_tensors_moe.py, `get_moe_method`).

    Args:
        model: as it is stored.
        quantized: full names of the layers that are quantized, possibly experts taken apart.
    """
    names = tuple(quantized)
    return {
        rf"re:^{re.escape(name)}\."
        for name, module in model.named_modules()
        if name.endswith(".experts")
        and any(one.ndim == 3 for one in module.parameters(recurse=False))
        and not any(one.startswith(f"{name}.") for one in names)
    }


def find_experts(model: PreTrainedModel, quantized: Iterable[str] | None = None) -> dict[str, ExpertLayout]:
    """Return the modules of a model whose experts can be taken apart, with how each keeps them.

    Left out are modules of other classes than transformers', experts that a checkpoint keeps in another order of
    outputs than the model, those of two mixtures that it numbers as one, and such as share tensors with others
    (DiffusionGemma's encoder has its decoder's).

    Args:
        model: its values are not used.
        quantized: full names of quantized layers, taken apart. Experts that checkpoints keep in one tensor are then
            left out where none of them is quantized, since they stay in that tensor. None for all experts.
    """
    rules = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightConverter)]
    names = dict(_names_by_target(rules))
    reordered = _reordered(rules)
    prefixes = None if quantized is None else _prefixes(quantized)
    shared = {*chain.from_iterable(model.all_tied_weights_keys.items())}
    experts = {}
    for name, module in model.named_modules():
        stored = next((names[end] for end in names if _ends(f"{name}.{_first(module)}", end)), None)
        default = _NAMES_OF_MIXTRAL if ".block_sparse_moe." in f".{name}." else _NAMES
        layout = layout_of(module, stored, default=default)
        if layout is None or any(_ends(f"{name}.{one}", end) for one in layout.parameters for end in reordered):
            continue
        if not shared.isdisjoint(f"{name}.{one}" for one in layout.parameters):
            continue
        if layout.is_apart or prefixes is None or name in prefixes:
            experts[name] = layout
    return experts


def replace_experts(model: PreTrainedModel, quantized: Iterable[str] | None = None) -> None:
    """Replace every module that `find_experts` returns by linear layers.

    Args:
        model: is changed.
        quantized: as for `find_experts`.

    Raises:
        CheckpointError: there are more experts than any model has.
    """
    with NoValues():
        for name, layout in _checked_experts(model, quantized).items():
            model.set_submodule(name, taken_apart(model.get_submodule(name), layout))
            around: Any = model.get_submodule(name.rpartition(".")[0])
            # Qwen3-Omni's draws the values of the large tensors itself, once more after files have given them.
            around._is_hf_initialized = not [*around.buffers(recurse=False)]  # noqa: SLF001


def modules_apart(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module with weights as `replace_experts` would make it, with its full name; the model is not changed.

    All experts of a layer are represented by the same modules without values: DeepSeek-V3 has 44,544 linear layers in
    experts, and building them all takes seconds.

    Raises:
        CheckpointError: there are more experts than any model has.
    """
    experts = _checked_experts(model, None)
    owners = {
        f"{name}.{parameter}".rpartition(".")[0]: name
        for name, layout in experts.items()
        for parameter in layout.parameters
    }
    for name, module in modules_with_weights(model):
        if name not in owners:
            yield name, module
            continue
        layout = experts[owners[name]]
        with NoValues():
            linears = one_expert(model.get_submodule(owners[name]), layout)
        for index in range(layout.num_experts):
            yield from ((linear.child_of(owners[name], index), layer) for linear, layer in linears)


def merges_experts(conversion: Any) -> bool:
    """Check whether a weight conversion of transformers makes the large tensors from layers of a checkpoint."""
    return isinstance(conversion, WeightConverter) and any(
        _MERGED.fullmatch(_literal(target)) for target in conversion.target_patterns
    )


def _checked_experts(model: PreTrainedModel, quantized: Iterable[str] | None) -> dict[str, ExpertLayout]:
    """Return what `find_experts` does, unless there are more experts than any model has."""
    experts = find_experts(model, quantized)
    count = sum(layout.num_experts for layout in experts.values())
    if count > MAX_EXPERTS:
        what = f"this {type(model).__name__} has {count} experts by its config, and no model has more than"
        raise CheckpointError(f"{what} {MAX_EXPERTS} in all: get the model's own config")
    return experts


def _names_by_target(rules: Iterable[WeightConverter]) -> Iterator[tuple[str, Names]]:
    """Yield the end of the name of the first tensor of merged experts, with the names of their layers in checkpoints.

    The first tensor is gate_up_proj, or up_proj of experts without a gate.
    """
    sources = {
        _literal(target): [_literal(source).split(".")[-2] for source in conversion.source_patterns]
        for conversion in rules
        if merges_experts(conversion) and all("*" in source for source in conversion.source_patterns)
        for target in conversion.target_patterns
    }
    for target, layers in sources.items():
        base, _, last = target.rpartition(".")
        down = sources.get(f"{base}.down_proj", [])
        if len(down) == 1 and len(layers) == {"gate_up_proj": 2, "up_proj": 1}.get(last):
            yield target, (*layers, *down)


def _reordered(rules: Iterable[WeightConverter]) -> list[str]:
    """Return the ends of the names of those large tensors that checkpoints keep otherwise than one by one.

    That is as one, with outputs in other order; or those of two mixtures under one numbering (ERNIE 4.5 VL).
    """
    return [
        _literal(target)
        for rule in rules
        if merges_experts(rule)
        and (len(rule.target_patterns) > 1 or not any("*" in source for source in rule.source_patterns))
        for target in rule.target_patterns
        if not all(isinstance(operation, Transpose) for operation in rule.operations)
    ]


def _first(module: nn.Module) -> str:
    """Return the name of the parameter by which a checkpoint's names of the layers of experts are found."""
    return "gate_up_proj" if getattr(module, "has_gate", True) else "up_proj"


def _ends(name: str, end: str) -> bool:
    """Check whether the last modules of a full name are those of `end`, which may begin with a dot."""
    return f".{name}".endswith(f".{end.removeprefix('.')}")


def _prefixes(names: Iterable[str]) -> set[str]:
    """Return the names of all modules around these."""
    found: set[str] = set()
    for name in names:
        while name := name.rpartition(".")[0]:
            found.add(name)
    return found


def _literal(pattern: str) -> str:
    """Return the name that a pattern of transformers' conversions matches, if dots are all that it escapes."""
    return pattern.replace("\\.", ".").removesuffix("$")
