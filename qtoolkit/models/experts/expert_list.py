"""Hold experts as linear layers of their own, in place of a module that keeps them in a few large tensors."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import torch
from torch import nn
from transformers.integrations.moe import _default_apply_gate

from qtoolkit.models.experts.expert_layouts import ROUTED, SORTED, ExpertLayout, ExpertLinear

# Takes the outputs of all layers of an expert but the last, and returns the input of that.
Combine = Callable[..., torch.Tensor]


class Expert(nn.Module):
    """One expert: down(combine(gate(x), up(x))), or down(combine(up(x))) without a gate; x[tokens, hidden].

    Args:
        linears: the layers by their names as children, those of the checkpoint: w1, w3, w2 in Mixtral; the last one is
            that which makes the output.
        combine: what comes between; it has no parameters.
    """

    def __init__(self, linears: Mapping[str, nn.Module], combine: Combine) -> None:
        super().__init__()
        for name, linear in linears.items():
            self.add_module(name, linear)
        self._names = tuple(linears)
        self._combine = combine

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the expert's output, [tokens, hidden]."""
        # Looked up in each call, since quantizing replaces them by other layers.
        *first, down = (self.get_submodule(name) for name in self._names)
        y: torch.Tensor = down(self._combine(*(layer(x) for layer in first)))
        return y


class ExpertList(nn.ModuleList):
    """All experts of a layer, each an `Expert`; replaces the module that keeps them in a few tensors.

    Children are "0", "1", ... as in a checkpoint, so that `experts.0.w1.qweight` loads by its name, and each linear
    layer can be hooked or replaced like any other.
    """

    num_experts: int
    # Whether numbers beyond those of the experts stand for such that give their inputs back: longcat_flash.
    has_identity = False

    @classmethod
    def of(cls, fused: nn.Module, layout: ExpertLayout) -> Self:
        """Take apart the experts of a module.

        The layers' weights are views of its tensors, which take no memory of their own.

        Args:
            fused: a module that `find_experts` returned.
            layout: how it keeps them.
        """
        combine = _combination(fused, layout)
        kept = cls(
            Expert({linear.name: layer for linear, layer in _layers(fused, layout, index)}, combine)
            for index in range(layout.num_experts)
        )
        kept.num_experts = layout.num_experts
        norm = getattr(fused, "post_expert_norm", None)
        if norm is not None and getattr(fused, "has_post_expert_norm", False):
            kept.add_module("post_expert_norm", norm)
        kept.has_identity = hasattr(fused, "identity_expert")
        return kept.train(fused.training)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Add up, for each token, the weighted outputs of the experts that the router chose for it.

        Args:
            hidden_states: [..., hidden].
            top_k_index: the chosen experts [tokens, k].
            top_k_weights: their weights [tokens, k].

        Returns:
            the same shape and type as hidden_states.
        """
        x = hidden_states.reshape(-1, hidden_states.shape[-1])  # [..., hidden] -> [tokens, hidden]
        total = torch.zeros_like(x)
        for index in top_k_index.unique().tolist():
            rank, token = torch.where(index == top_k_index.T)
            output = self._output(index, x[token]) * top_k_weights[token, rank, None]
            total.index_add_(0, token, output.to(total.dtype))
        return total.view(hidden_states.shape)

    def _output(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """Return the output of an expert, [tokens, hidden]."""
        if index >= self.num_experts and self.has_identity:
            return x
        output: torch.Tensor = self[index](x)
        norm = self._modules.get("post_expert_norm")
        return output if norm is None else norm(output)


class RepeatedExperts(ExpertList):
    """Experts that each get all tokens, most of them as zeros: Llama 4 multiplies inputs with the router's scores."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return the outputs of all experts, one expert after the other.

        A token that was not sent to an expert is a row of zeros, whose output is zero: such rows are not computed, nor
        do they count as inputs that the expert was calibrated with.

        Args:
            hidden_states: [experts * tokens, hidden].
        """
        x = hidden_states.view(self.num_experts, -1, hidden_states.shape[-1])  # [experts, tokens, hidden]
        total = torch.zeros_like(x)
        sent = x.any(dim=-1)  # [experts, tokens]
        for index in sent.any(dim=-1).nonzero().flatten().tolist():
            total[index, sent[index]] = self._output(index, x[index, sent[index]]).to(total.dtype)
        return total.view(hidden_states.shape)


class SortedExperts(nn.ModuleList):
    """One linear layer for each expert, each with its own tokens: JetMoE."""

    @classmethod
    def of(cls, fused: nn.Module, layout: ExpertLayout) -> Self:
        """Take apart a module with the weight [experts, out, in]; see `ExpertList.of`."""
        layers = [layer for index in range(layout.num_experts) for _, layer in _layers(fused, layout, index)]
        return cls(layers).train(fused.training)

    def forward(self, inputs: torch.Tensor, expert_size: list[int]) -> torch.Tensor:
        """Return the outputs [tokens, out] of inputs [tokens, in], of which each expert has `expert_size` in turn."""
        parts = zip(self, inputs.split(expert_size), strict=True)
        # An expert without tokens is called all the same, since its output has the width of the others.
        return torch.cat([layer(part) if len(part) else part.new_zeros(0, self._width()) for layer, part in parts])

    def _width(self) -> int:
        layer: Any = self[0]
        return int(layer.out_features)


def taken_apart(fused: nn.Module, layout: ExpertLayout) -> nn.Module:
    """Return the module of linear layers that computes what another does that keeps experts in a few tensors."""
    if layout.called == SORTED:
        return SortedExperts.of(fused, layout)
    return ExpertList.of(fused, layout) if layout.called == ROUTED else RepeatedExperts.of(fused, layout)


def one_expert(fused: nn.Module, layout: ExpertLayout) -> list[tuple[ExpertLinear, nn.Linear]]:
    """Return the layers of one expert, without values."""
    empty = {name: _empty_rows(fused, layout, name) for name in layout.parameters}
    return [(linear, _linear(linear, empty, trained=False)) for linear in layout.linears]


def _empty_rows(fused: nn.Module, layout: ExpertLayout, name: str) -> torch.Tensor:
    """Return what a parameter holds for one expert, without values."""
    parameter = fused.get_parameter(name)
    ((_, kind), *_) = layout.parameters[name]
    first, last = layout.rows_of(parameter.shape, 0, kind)
    shape = (last - first, *parameter.shape[1:]) if kind == "weight" and parameter.ndim == 2 else parameter.shape[1:]
    return torch.empty(shape, dtype=parameter.dtype, device="meta")


def _layers(fused: nn.Module, layout: ExpertLayout, index: int) -> list[tuple[ExpertLinear, nn.Linear]]:
    """Return the layers of an expert, whose weights are views of the module's."""
    parts: dict[str, torch.Tensor] = {}
    for name, ((_, kind), *_) in layout.parameters.items():
        parameter = fused.get_parameter(name)
        first, last = layout.rows_of(parameter.shape, index, kind)
        stacked = kind == "weight" and parameter.ndim == 2
        parts[name] = parameter.detach()[first:last] if stacked else parameter.detach()[index]
    trained = fused.get_parameter(layout.linears[0].weight).requires_grad
    return [(linear, _linear(linear, parts, trained=trained)) for linear in layout.linears]


def _linear(linear: ExpertLinear, parts: Mapping[str, torch.Tensor], *, trained: bool) -> nn.Linear:
    """Return a linear layer whose weight and bias are views of what parameters hold for one expert."""
    weight = linear.weight_of(parts[linear.weight])
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=linear.bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=trained)
    if linear.bias is not None:
        layer.bias = nn.Parameter(parts[linear.bias][linear.outputs], requires_grad=trained)
    return layer


def _combination(fused: Any, layout: ExpertLayout) -> Combine:
    """Return what computes the last layer's input from the outputs of the others, as the module does itself."""
    own = getattr(type(fused), "_apply_gate", None)
    if own is not None and own is not _default_apply_gate and len(layout.linears) == 3:
        # Without the large tensors, which are freed when the module has gone.
        bare = copy.copy(fused)
        bare._parameters = {}  # noqa: SLF001
        return partial(_by_own_gate, bare._apply_gate, layout.interleaved)  # noqa: SLF001
    act_fn: Combine = fused.act_fn if hasattr(fused, "act_fn") else fused.mlp.activation_fn
    return partial(_gated if len(layout.linears) == 3 else _ungated, act_fn)


def _gated(act_fn: Combine, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return act_fn(gate) * up, all [tokens, intermediate]."""
    return act_fn(gate) * up


def _ungated(act_fn: Combine, up: torch.Tensor) -> torch.Tensor:
    """Return act_fn(up), [tokens, intermediate]."""
    return act_fn(up)


def _by_own_gate(
    apply_gate: Combine,
    interleaved: bool,
    gate: torch.Tensor,
    up: torch.Tensor,
) -> torch.Tensor:
    """Return what a module's own gate makes of the outputs of both layers, [tokens, intermediate]."""
    both = torch.stack([gate, up], dim=-1).flatten(-2) if interleaved else torch.cat([gate, up], dim=-1)
    return apply_gate(both)
