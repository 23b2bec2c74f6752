"""What a method does to each module of a model that has weights: quantize it, or leave it, and why."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats import Layer, Reader
from qtoolkit.methods import Method, MethodConfig, check_rules
from qtoolkit.models import Checkpoint, structure
from qtoolkit.models.experts import modules_apart
from qtoolkit.records import LayerPlan

# What is calibrated with: no layer's plan depends on it, and advice asks for plans that differ in nothing else.
_CALIBRATING = ("calibration", "num_samples", "seq_len")

Planned = tuple[MethodConfig, tuple[LayerPlan, ...], tuple[LayerPlan, ...]]
Candidates = tuple[tuple[Layer, ...], tuple[LayerPlan, ...]]


class Modules:
    """The modules of a checkpoint as several plans of it see them, each question answered once.

    A mixture has 100,000 linear layers and more, and a plan that does not fit is followed by as many as eight drafts.

    Args:
        checkpoint: headers read.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._candidates: dict[tuple[Any, ...], Candidates] = {}
        self._planned: list[tuple[Method | Reader, str, dict[str, Any], dict[str, Any], Planned]] = []

    def planned(self, method: Method | Reader, config: MethodConfig, device: str) -> Planned:
        """The config as it fits, the modules that will be quantized, and those that stay.

        Raises:
            ConfigError: the config fits no layer of the model.
            UnsupportedModelError: no layer is left to quantize.
        """
        values = {name: value for name, value in config.to_dict().items() if name not in _CALIBRATING}
        for known, place, others, fitted, (_, layers, skipped) in self._planned:
            if known is method and place == device and others == values:
                return replace(config, **fitted), layers, skipped
        made = self._plan(method, config, device)
        self._planned.append((method, device, values, _changed(config, made[0]), made))
        return made

    def candidates(self, method: Method | Reader, config: MethodConfig, device: str) -> Candidates:
        """Every module that has weights: those that a method may quantize, and those that stay with the reason why."""
        asked = (method.splits_experts, config.exclude, device)
        if asked not in self._candidates:
            self._candidates[asked] = _candidates(self._checkpoint.skeleton, method, config, device)
        return self._candidates[asked]

    def _plan(self, method: Method | Reader, config: MethodConfig, device: str) -> Planned:
        candidates, excluded = self.candidates(method, config, device)
        check_rules(config, [layer.name for layer in candidates], [layer.name for layer in excluded])
        fitted = method.fit(candidates, config)
        plans = list(_plans(method, fitted, candidates, _described(config, fitted)))
        layers = tuple(plan for plan in plans if not plan.skipped)
        skipped = (*excluded, *(plan for plan in plans if plan.skipped))
        if not layers:
            reasons = ", ".join(sorted({layer.skipped for layer in skipped})) or "it has no weights"
            name = self._checkpoint.name
            raise UnsupportedModelError(f"{method.name} finds no layer to quantize in {name}: {reasons}")
        return fitted, layers, skipped


def layers_to_quantize(
    checkpoint: Checkpoint, method: Method | Reader, config: MethodConfig, device: str
) -> tuple[Layer, ...]:
    """The linear layers that a method may quantize, in the model's order."""
    return Modules(checkpoint).candidates(method, config, device)[0]


def _candidates(model: PreTrainedModel, method: Method | Reader, config: MethodConfig, device: str) -> Candidates:
    modules = modules_apart(model) if method.splits_experts else structure.modules_with_weights(model)
    tied, head, blocks = structure.tied_to(model), structure.output_head(model), structure.block_list(model)
    candidates: list[Layer] = []
    skipped: list[LayerPlan] = []
    counted: set[int] = set()
    for name, module in modules:
        reason = _why_skipped(name, module, config, tied, is_head=name == head)
        if reason:
            # One module may stand for many experts (`modules_apart`): only what is tied is one tensor.
            skipped.append(_kept(name, module, reason, counted if name in tied else set()))
        else:
            in_block = blocks is not None and name.startswith(f"{blocks[0]}.")
            candidates.append(Layer.of(name, module, device, in_block=in_block))
    return tuple(candidates), tuple(skipped)


def _plans(method: Method | Reader, config: MethodConfig, layers: Iterable[Layer], changed: str) -> Iterator[LayerPlan]:
    """The plan of each layer, made once for all that are alike: a mixture has tens of thousands of a few shapes."""
    # A config beside its plan, so that it lives as long as the number that it is known by.
    known: dict[tuple[Any, ...], tuple[MethodConfig, LayerPlan]] = {}
    for layer in layers:
        own = config.of(layer.name)
        shape = (layer.out_features, layer.in_features, layer.has_bias, layer.itemsize, layer.device, layer.in_block)
        alike = (id(own), *shape, layer.name if method.plans_by_name else "")
        if alike not in known:
            plan = method.plan_layer(layer, own)
            known[alike] = own, replace(plan, adjusted=changed) if changed and not plan.skipped else plan
        _, plan = known[alike]
        yield replace(plan, name=layer.name)


def _changed(asked: MethodConfig, fitted: MethodConfig) -> dict[str, Any]:
    """The options that a method gave another value so that they fit all layers."""
    before = asked.to_dict()
    return {name: value for name, value in fitted.to_dict().items() if value != before[name]}


def _described(asked: MethodConfig, fitted: MethodConfig) -> str:
    """What a method changed of its config, in words; empty where nothing."""
    before = asked.to_dict()
    changed = [f"{name} {value} instead of {before[name]}" for name, value in _changed(asked, fitted).items()]
    return f"{', '.join(changed)}, which does not fit all layers" if changed else ""


def _why_skipped(name: str, module: nn.Module, config: MethodConfig, tied: dict[str, str], *, is_head: bool) -> str:
    if not structure.is_linear(module):
        return structure.kind_of(module)
    if name in tied:
        return f"shares its weight with {tied[name]}"
    # Some architectures call their output head something else.
    if config.excludes(name) or (is_head and config.excludes("lm_head")):
        return "excluded by name"
    return ""


def _kept(name: str, module: nn.Module, reason: str, counted: set[int]) -> LayerPlan:
    """The plan of a module that stays; a parameter that it shares with an earlier module takes no bytes again."""
    parameters = list(module.parameters(recurse=False))
    own = [parameter for parameter in parameters if id(parameter) not in counted]
    counted.update(id(parameter) for parameter in own)
    size = sum(parameter.nbytes for parameter in own)
    largest = max(parameters, key=lambda parameter: parameter.numel())
    return LayerPlan(
        name=name,
        shape=tuple(largest.shape),
        num_weights=sum(parameter.numel() for parameter in own),
        bytes_before=size,
        bytes_after=size,
        disk_bytes=size,
        skipped=reason,
        working_bytes=size,
    )
