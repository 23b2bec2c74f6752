"""Plan for each module with weights whether a method quantizes it, or why the module stays as it is."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.quantizers_utils import should_convert_module

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats import Layer, Reader, get_format, patched_modules
from qtoolkit.measure.footprint import beside_bytes
from qtoolkit.methods import Method, MethodConfig, check_rules
from qtoolkit.models import structure
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.experts import find_experts, modules_apart
from qtoolkit.models.experts_apart import are_of_experts
from qtoolkit.models.first_values import layers_given_first_values
from qtoolkit.models.read_weights import layers_with_read_weights
from qtoolkit.models.renaming import converted_layers
from qtoolkit.models.unreached_blocks import unreached_blocks
from qtoolkit.records import LayerPlan

# Options of calibration: no layer's plan depends on them, and many suggestions differ in nothing else.
_CALIBRATING = ("calibration", "calibration_column", "num_samples", "seq_len")

Planned = tuple[MethodConfig, tuple[LayerPlan, ...], tuple[LayerPlan, ...]]
Candidates = tuple[tuple[Layer, ...], tuple[LayerPlan, ...]]


class Modules:
    """Plan the modules of a checkpoint, and cache the results, which several plans of it share.

    A mixture of experts has 100,000 linear layers and more, and a plan that does not fit is followed by up to eight
    drafts of other plans.

    Args:
        checkpoint: the model, its headers read.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._candidates: dict[tuple[Any, ...], Candidates] = {}
        self._read: dict[bool, frozenset[str]] = {}
        self._planned: list[tuple[tuple[Method | Reader, str, dict[str, Any]], dict[str, Any], Planned]] = []

    @cached_property
    def beside_bytes(self) -> int:
        """Return the bytes of what the model holds beside its parameters and buffers."""
        return beside_bytes(self._checkpoint.skeleton)

    def given_values(self, layers: Iterable[LayerPlan]) -> tuple[str, ...]:
        """Return which of these layers have a weight that the model's class gives first values to as it is opened."""
        return layers_given_first_values(self._checkpoint.skeleton, [layer.name for layer in layers])

    def planned(self, method: Method | Reader, config: MethodConfig, device: str) -> Planned:
        """Return the config as it fits the layers, the modules that will be quantized, and those that stay.

        Raises:
            ConfigError: the config fits no layer of the model.
            UnsupportedModelError: no layer is left to quantize.
        """
        options = {name: value for name, value in config.to_dict().items() if name not in _CALIBRATING}
        for key, changes, (_, layers, skipped) in self._planned:
            if key == (method, device, options):
                return replace(config, **changes), layers, skipped
        planned = self._plan(method, config, device)
        self._planned.append(((method, device, options), _changes(config, planned[0]), planned))
        return planned

    def candidates(self, method: Method | Reader, config: MethodConfig, device: str) -> Candidates:
        """Return the modules with weights: those that a method may quantize, and the plans of those that stay."""
        read = self._read_weights(marked=method.takes_called_when_marked)
        key = (method.splits_experts, read, config.exclude, config.include, device)
        if key not in self._candidates:
            self._candidates[key] = _candidates(self._checkpoint.skeleton, method, config, device, read)
        return self._candidates[key]

    def _read_weights(self, *, marked: bool) -> frozenset[str]:
        """Return the layers whose weight another module reads, which for most models are the same marked or not."""
        if marked not in self._read:
            self._read[marked] = layers_with_read_weights(self._checkpoint.skeleton, marked=marked)
        return self._read[marked]

    def has_experts_apart(self, method: Method, config: MethodConfig, device: str) -> bool:
        """Tell whether a method is to take all experts of the model apart."""
        left = self.candidates(method, config, device)[1]
        return not are_of_experts(self._checkpoint.skeleton, (layer.name for layer in left))

    def _plan(self, method: Method | Reader, config: MethodConfig, device: str) -> Planned:
        candidates, excluded = self.candidates(method, config, device)
        ruled = [layer.name for layer in candidates]
        if method.writes_file:
            ruled += [layer.name for layer in embeddings_of(self._checkpoint, device)]
        check_rules(config, ruled, [layer.name for layer in excluded])
        fitted = method.fit(candidates, config)
        embeddings = _embeddings(self._checkpoint.skeleton, method, fitted, device)
        excluded = tuple(plan for plan in excluded if plan.name not in embeddings)
        candidates = tuple(layer for layer in candidates if layer.name not in embeddings)
        plans = [*embeddings.values()]
        plans += _plans(method, fitted, candidates, _describe(_changes(config, fitted), config))
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
    """Return the linear layers that a method may quantize, in the model's order."""
    return Modules(checkpoint).candidates(method, config, device)[0]


def embeddings_of(checkpoint: Checkpoint, device: str) -> tuple[Layer, ...]:
    """Return the token embedding, and an output head of its own."""
    return tuple(_outer_layers(checkpoint.skeleton, device))


def planner_of(
    method: Method, checkpoint: Checkpoint, config: MethodConfig, *, device: str = "cpu", modules: Modules | None = None
) -> Method | Reader:
    """Return what plans a model for a method.

    Args:
        method: of the config.
        checkpoint: the model in full precision.
        config: resolved.
        device: that of the plan which shares `modules`; it decides nothing here.
        modules: plans of the checkpoint's modules, to share with that plan; None for none.

    Raises:
        UnsupportedModelError: the method takes no such model, or its result would not be read again.
    """
    format_ = get_format(config.format)
    kind = next(iter(patched_modules(checkpoint.skeleton, format_.quant_method).values()), None)
    # A method that takes experts apart writes what transformers reads, but for experts that it leaves.
    modules = modules or Modules(checkpoint)
    are_apart = method.leaves_experts_apart or (
        method.splits_experts and modules.has_experts_apart(method, config, device)
    )
    if kind is not None and not are_apart:
        raise UnsupportedModelError(
            f"{method.name} takes no {checkpoint.config.model_type}: its {kind} stays as it is, and transformers reads "
            f"{format_.name} with a layer for each expert in its place; take another format or method"
        )
    return method.planner_of(checkpoint, config)


def _candidates(
    model: PreTrainedModel, method: Method | Reader, config: MethodConfig, device: str, read: frozenset[str]
) -> Candidates:
    modules = modules_apart(model) if method.splits_experts else structure.modules_with_weights(model)
    tied = structure.tied_to(model)
    head = structure.output_head(model)
    blocks = structure.block_list(model)
    converted = converted_layers(model)
    beside_text = structure.parts_beside_text(model)
    kept = [*(model._keep_in_fp32_modules or ())]  # noqa: SLF001
    unreached = tuple(f"{block}." for block in unreached_blocks(model))
    candidates: list[Layer] = []
    skipped: list[LayerPlan] = []
    counted: set[int] = set()
    for name, module in modules:
        reason = _reason_to_skip(name, module, config, tied, is_head=name == head)
        if name in beside_text and not config.includes(name):
            reason = f"part of {beside_text[name]}, which is no part of the language model"
        if not reason and converted.get(name):
            reason = "files keep it as several layers, which transformers merges as it reads them"
        if not reason and name in read:
            reason = "the module around it reads its weight and does not call it"
        if reason:
            # One module may represent many experts (`modules_apart`): only a tied weight is one tensor.
            skipped.append(_skipped(name, module, reason, counted if name in tied else set()))
        else:
            in_block = blocks is not None and name.startswith(f"{blocks[0]}.")
            layer = Layer.of(name, module, device, in_block=in_block)
            is_reached = name not in beside_text and not name.startswith(unreached)
            keeps_type = not should_convert_module(name, kept)
            layer = replace(layer, is_reached=is_reached, keeps_type=keeps_type, is_split=name in converted)
            candidates.append(replace(layer, is_misread=name.endswith("weight")))
    # Those alone that transformers merges as it reads them.
    if find_experts(model, ()) and not are_of_experts(model, (layer.name for layer in candidates)):
        candidates = [replace(layer, beside_experts=True) for layer in candidates]
    return tuple(candidates), tuple(skipped)


def _embeddings(
    model: PreTrainedModel, method: Method | Reader, config: MethodConfig, device: str
) -> dict[str, LayerPlan]:
    """Return the plans of the token embedding and of an output head of its own, by name, where they are quantized."""
    layers = _outer_layers(model, device).items()
    plans = (method.plan_embedding(layer, config, multiplies=multiplies) for layer, multiplies in layers)
    return {plan.name: plan for plan in plans if plan is not None}


def _outer_layers(model: PreTrainedModel, device: str) -> dict[Layer, bool]:
    """Return the token embedding, and an output head of its own, with whether a weight is multiplied with."""
    modules = dict(model.named_modules())
    tied = structure.tied_to(model)
    head = structure.output_head(model)
    token = structure.token_embedding(model)
    layers = {}
    if token is not None:
        layers[Layer.of_embedding(token, modules[token], device)] = token in tied
    if head is not None and head not in tied and structure.is_linear(modules[head]):
        layers[Layer.of(head, modules[head], device, in_block=False)] = True
    return layers


def _plans(method: Method | Reader, config: MethodConfig, layers: Iterable[Layer], changed: str) -> Iterator[LayerPlan]:
    """Yield the plan of each layer; it is made once for all layers, of experts say, that differ in their names only."""
    # The config is held beside its plan, so that its `id` is not given to another config.
    plans: dict[tuple[Any, ...], tuple[MethodConfig, LayerPlan]] = {}
    for layer in layers:
        own = config.of(layer.name)
        shape = (layer.out_features, layer.in_features, layer.has_bias, layer.itemsize, layer.device)
        key = (
            id(own),
            *shape,
            layer.in_block,
            layer.is_reached,
            layer.keeps_type,
            layer.is_split,
            layer.is_misread,
            layer.dtype,
            layer.kind,
            layer.transposed,
            layer.name if method.plans_by_name else "",
        )
        if key not in plans:
            plan = method.plan_layer(layer, own)
            plans[key] = own, replace(plan, adjusted=changed) if changed and not plan.skipped else plan
        yield replace(plans[key][1], name=layer.name)


def _changes(config: MethodConfig, fitted: MethodConfig) -> dict[str, Any]:
    """Return the options to which a method gave another value so that they fit all layers."""
    before = config.to_dict()
    return {name: value for name, value in fitted.to_dict().items() if value != before[name]}


def _describe(changes: dict[str, Any], config: MethodConfig) -> str:
    """Describe the changes that a method made to a config; empty without changes."""
    before = config.to_dict()
    described = [f"{name} {value} instead of {before[name]}" for name, value in changes.items()]
    return f"{', '.join(described)}, which does not fit all layers" if described else ""


def _reason_to_skip(name: str, module: nn.Module, config: MethodConfig, tied: dict[str, str], *, is_head: bool) -> str:
    if not structure.is_linear(module):
        return structure.kind_of(module)
    if name in tied:
        return f"shares its weight with {tied[name]}"
    # "lm_head" means the output head, whatever an architecture calls it.
    if config.excludes(name) or (is_head and config.excludes("lm_head")):
        return "excluded by name"
    return ""


def _skipped(name: str, module: nn.Module, reason: str, counted: set[int]) -> LayerPlan:
    """Return the plan of a module that stays; a parameter shared with an earlier module takes no bytes again."""
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
