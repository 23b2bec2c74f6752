"""Take the experts of a mixture apart into linear layers; transformers 5 keeps them in two large tensors."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.integrations.moe import _default_apply_gate

from qtoolkit.errors import CheckpointError
from qtoolkit.models.empty_models import NoValues
from qtoolkit.models.structure import modules_with_weights

# Published models have up to 61 x 384; each becomes three linear layers.
MAX_EXPERTS = 50_000
Names = tuple[str, str, str]


class Expert(nn.Module):
    """One expert: down(act_fn(gate(x)) * up(x)), x[tokens, hidden] -> [tokens, hidden].

    Args:
        gate, up: linear layers, hidden -> intermediate.
        down: linear layer, intermediate -> hidden.
        act_fn: the activation function, without parameters.
        names: the names of the three as children, those of the checkpoint: w1, w3, w2 in Mixtral.
    """

    def __init__(self, gate: nn.Module, up: nn.Module, down: nn.Module, act_fn: nn.Module, names: Names) -> None:
        super().__init__()
        for name, linear in zip(names, (gate, up, down), strict=True):
            self.add_module(name, linear)
        self.act_fn = act_fn
        self._names = names

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute down(act_fn(gate(x)) * up(x))."""
        # Looked up in each call, since quantizing replaces them by other layers.
        gate, up, down = (self.get_submodule(name) for name in self._names)
        y: torch.Tensor = down(self.act_fn(gate(x)) * up(x))
        return y


class ExpertList(nn.ModuleList):
    """All experts of a layer, each an `Expert`; replaces the module that keeps them in two tensors.

    Children are "0", "1", ... as in a checkpoint, so that `experts.0.w1.qweight` loads by its name, and each linear
    layer can be hooked or replaced like any other.
    """

    @classmethod
    def of(cls, fused: nn.Module, names: Names) -> Self:
        """Take apart the experts of a module with gate_up_proj [experts, 2 * intermediate, hidden] and down_proj.

        The layers' weights are views of the fused tensors, which take no memory of their own.

        Args:
            fused: a module that `find_experts` returned.
            names: the names of the gate, up and down layer in the checkpoint.
        """
        gates_and_ups: torch.Tensor = fused.gate_up_proj  # type: ignore[assignment]  # [experts, 2 * intermediate, hidden]
        downs: torch.Tensor = fused.down_proj  # type: ignore[assignment]  # [experts, hidden, intermediate]
        experts = []
        for gate_and_up, down in zip(gates_and_ups.detach(), downs.detach(), strict=True):
            linears = _linears(gate_and_up, down, trained=gates_and_ups.requires_grad)
            experts.append(Expert(*linears, fused.act_fn, names))  # type: ignore[arg-type]
        return cls(experts).train(fused.training)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Add up, for each token, the weighted outputs of the experts that the router chose for it.

        Args:
            hidden_states: [tokens, hidden].
            top_k_index: the chosen experts [tokens, k].
            top_k_weights: their weights [tokens, k].

        Returns:
            [tokens, hidden] in the type of hidden_states.
        """
        total = torch.zeros_like(hidden_states)
        for index in top_k_index.unique().tolist():
            rank, token = torch.where(index == top_k_index.T)
            output = self[index](hidden_states[token]) * top_k_weights[token, rank, None]
            total.index_add_(0, token, output.to(total.dtype))
        return total


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


def find_experts(model: PreTrainedModel) -> dict[str, Names]:
    """Return the modules of a model that `ExpertList` can replace, each with its layers' names in checkpoints.

    Left out are experts that checkpoints keep in one tensor too (gpt-oss), that have biases or norms, and that compute
    something else than act_fn(gate) * up (DeepSeek-V4).
    """
    names = dict(_names_by_target(model))
    experts = {}
    for name, module in model.named_modules():
        stored = next((names[end] for end in names if f"{name}.gate_up_proj".endswith(end)), None)
        if stored is not None and _is_plain(module):
            experts[name] = stored
    return experts


def replace_experts(model: PreTrainedModel) -> None:
    """Replace every module that `find_experts` returns by an `ExpertList`.

    Raises:
        CheckpointError: there are more experts than any model has.
    """
    with NoValues():
        for name, names in _checked_experts(model).items():
            model.set_submodule(name, ExpertList.of(model.get_submodule(name), names))


def modules_apart(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module with weights as `replace_experts` would make it, with its full name; the model is not changed.

    All experts of a layer are represented by the same three modules without values: DeepSeek-V3 has 44,544 linear
    layers in experts, and building them all takes seconds.

    Raises:
        CheckpointError: there are more experts than any model has.
    """
    experts = _checked_experts(model)
    for name, module in modules_with_weights(model):
        if name not in experts:
            yield name, module
            continue
        linears = _one_expert(module)
        for index in range(len(module.down_proj)):  # type: ignore[arg-type]
            yield from ((f"{name}.{index}.{part}", linear) for part, linear in zip(experts[name], linears, strict=True))


def _checked_experts(model: PreTrainedModel) -> dict[str, Names]:
    """Return what `find_experts` does, unless there are more experts than any model has."""
    experts = find_experts(model)
    count = sum(len(model.get_submodule(name).gate_up_proj) for name in experts)
    if count > MAX_EXPERTS:
        what = f"this {type(model).__name__} has {count} experts by its config, and no model has more than"
        raise CheckpointError(f"{what} {MAX_EXPERTS} in all: get the model's own config")
    return experts


def merges_experts(conversion: Any) -> bool:
    """Check whether a weight conversion of transformers makes the large tensors from layers of a checkpoint."""
    return isinstance(conversion, WeightConverter) and any(
        _literal(target).endswith(("experts.gate_up_proj", "experts.down_proj"))
        for target in conversion.target_patterns
    )


def _names_by_target(model: PreTrainedModel) -> Iterator[tuple[str, Names]]:
    """Yield the end of each gate_up_proj's name, with the names of its two parts and its down_proj in checkpoints."""
    sources = {
        _literal(target): [_literal(source).split(".")[-2] for source in conversion.source_patterns]
        for conversion in get_model_conversion_mapping(model)
        if merges_experts(conversion)
        for target in conversion.target_patterns
    }
    for target, layers in sources.items():
        down = sources.get(target.replace("gate_up_proj", "down_proj"), [])
        if target.endswith("gate_up_proj") and len(layers) == 2 and len(down) == 1:
            yield target, (layers[0], layers[1], down[0])


def _one_expert(fused: nn.Module) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Build the gate, up and down layer of one expert, without values."""
    tensors: tuple[torch.Tensor, torch.Tensor] = (fused.gate_up_proj, fused.down_proj)  # type: ignore[assignment]
    gate_and_up, down = (torch.empty(one.shape[1:], dtype=one.dtype, device="meta") for one in tensors)
    with NoValues():
        return _linears(gate_and_up, down, trained=False)


def _linears(gate_and_up: torch.Tensor, down: torch.Tensor, *, trained: bool) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Return the gate, up and down layer of one expert, whose weights are views of these tensors."""
    gate, up = gate_and_up.chunk(2)
    return _linear(gate, trained), _linear(up, trained), _linear(down, trained)


def _literal(pattern: str) -> str:
    """Return the name that a pattern of transformers' conversions matches, if dots are all that it escapes."""
    return pattern.replace("\\.", ".").removesuffix("$")


def _is_plain(module: nn.Module) -> bool:
    """Check whether experts have the layout and the formula of `Expert`."""
    flags = {"has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True}
    return (
        all(getattr(module, flag, None) is value for flag, value in flags.items())
        and not getattr(module, "has_post_expert_norm", False)
        and getattr(type(module), "_apply_gate", None) is _default_apply_gate
    )


def _linear(weight: torch.Tensor, trained: bool) -> nn.Linear:
    """Return a linear layer without bias that has this weight [out, in]."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=trained)
    return linear
