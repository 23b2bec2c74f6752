"""Bits for each layer under a target: measured sensitivities, exact bytes, and the rules that come out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor

from qtoolkit.errors import ConfigError
from qtoolkit.methods import Layer, Method, MethodConfig, MixedConfig, get_method, rules_of
from qtoolkit.models import Checkpoint
from qtoolkit.planning import check_machine, layers_to_quantize, plan_job
from qtoolkit.planning.allocation import Choice, allocate, total_loss, total_size
from qtoolkit.records import Machine, OnProgress, Plan, Sensitivity
from qtoolkit.sensitivity import measure_sensitivity
from qtoolkit.stream import JournalPlace, begun_recipe
from qtoolkit.units import bits_per_weight, format_bits, format_bytes, format_seconds, parse_bytes

# A tensor's entry in the header of a file, its name aside; the most tensors of one layer, and of another module.
_ENTRY_BYTES, _TENSORS, _OTHER_TENSORS = 130, 5, 2


def needs_measuring(config: MethodConfig) -> bool:
    """Whether a target is to be met by bits that only a measurement can give."""
    return isinstance(config, MixedConfig) and config.target is not None and not config.gives_bits


def refuse_without_weights(checkpoint: Checkpoint) -> None:
    """Refuse a target for a model of which only headers are here.

    Raises:
        ConfigError: its weights are on the Hub, or nowhere.
    """
    what = f"a target is met by measuring {checkpoint.name}"
    if checkpoint.format == "config":
        raise ConfigError(f"{what}, and a config has no weights: name a model, or give rules instead")
    if checkpoint.download_bytes:
        size = format_bytes(checkpoint.download_bytes)
        raise ConfigError(
            f"{what}, of which {size} are not here: run `hf download {checkpoint.name}` first, or give rules instead"
        )


@dataclass(frozen=True)
class MetTarget:
    """A config that meets its target.

    Attributes:
        config: with the rules that do so; as it was given where it has no target, or such rules already.
        num_measured: numbers of bits for which the sensitivity of layers was measured; 0 for none.
        notes: what was decided, one line each.
    """

    config: MethodConfig
    num_measured: int = 0
    notes: tuple[str, ...] = ()


def meet_target(
    checkpoint: Checkpoint,
    config: MethodConfig,
    device: str,
    machine: Machine | None,
    *,
    rss: int,
    on_progress: OnProgress,
    measuring_device: str | None = None,
) -> MetTarget:
    """Give a config the rules that meet its target; rules that give bits already are kept, if they keep the target.

    Args:
        checkpoint: the model; its weights must be within reach.
        config: any; without a target it is given back.
        device: where the result will live.
        machine: what the measurement must fit into; None to check nothing.
        rss: bytes that this process has resident now.
        on_progress: told of the measurement.
        measuring_device: where to measure; None for `device`.

    Raises:
        ConfigError: a target that cannot be reached, or rules that exceed it.
        InsufficientMemoryError: too little memory to measure.
        QToolkitError: as planning and measuring.
    """
    if not isinstance(config, MixedConfig) or config.target is None:
        return MetTarget(config)
    method = get_method(config.method)
    if config.gives_bits:
        _check_rules(checkpoint, method, config, device, rss)
        return MetTarget(config)
    choices = config.bits_to_give()
    most_bits = replace(config, bits=choices[0])
    planned = plan_job(checkpoint, most_bits, device, machine, rss=rss, measures=len(choices))
    fitted = planned.config
    plan = planned.plan
    assert isinstance(fitted, MixedConfig)
    if machine is not None:
        check_machine(replace(plan, phases=tuple(phase for phase in plan.phases if phase.name == "measure")), machine)
    units = _Units.of(checkpoint=checkpoint, method=method, config=fitted, plan=plan, choices=choices, device=device)
    budget = _Budget.of(config, plan, units.biases)
    if units.check(budget, checkpoint.name) <= budget.size:
        note = f"{budget.asked} leaves room for {choices[-1]} bits in every layer: nothing was measured"
        return MetTarget(replace(config, bits=choices[-1]), notes=(note,))
    layers = [layer for members in units.members.values() for layer in members if layer.in_block]
    found = measure_sensitivity(
        checkpoint, method, fitted, layers, choices, device=measuring_device or device, on_progress=on_progress
    )
    chosen, note = units.choose(found, budget)
    base, rules = rules_of(chosen)
    # A pattern that gave other options keeps these, and comes where its bits must.
    kept = {pattern: changes for pattern, changes in config.rules.items() if pattern not in rules}
    merged = kept | {pattern: {**config.rules.get(pattern, {}), **changes} for pattern, changes in rules.items()}
    return MetTarget(replace(config, bits=base, rules=merged), len(choices), (note,))


def _check_rules(checkpoint: Checkpoint, method: Method, config: MixedConfig, device: str, rss: int) -> None:
    """Refuse rules whose bits exceed the target."""
    plan = plan_job(checkpoint, config, device, None, rss=rss).plan
    names = {layer.name for layer in plan.layers}
    candidates = layers_to_quantize(checkpoint, method, config, device)
    budget = _Budget.of(config, plan, sum(layer.bias_bytes for layer in candidates if layer.name in names))
    size = sum(layer.disk_bytes for layer in plan.layers)
    if size > budget.size:
        raise ConfigError(
            f"{type(config).__name__}: the rules take {budget.described(size)}, more than {budget.asked}: "
            "leave out their bits, which are then given by sensitivity, or the target"
        )


def with_rules_of(config: MethodConfig, journal: JournalPlace | None) -> MethodConfig:
    """The config with the rules that an unfinished job of the same target was begun with.

    Measured on another machine, a sensitivity differs a little, and so might the rules.
    """
    if journal is None or not isinstance(config, MixedConfig) or not needs_measuring(config):
        return config
    begun = begun_recipe(journal)
    if any(begun.get(name) != getattr(config, name) for name in ("target_bits", "target_size")):
        return config
    try:
        return replace(config, bits=begun["bits"], rules=begun["rules"])
    except (ConfigError, KeyError, AttributeError, TypeError, ValueError, RecursionError):
        # What somebody wrote there are no rules: measured anew, they tell that another job was begun.
        return config


@dataclass(frozen=True)
class _Units:
    """Layers that get the same bits: one layer, or the same of all experts of a block.

    Attributes:
        members: unit -> its layers; a unit is named as a pattern that matches these.
        sizes: unit -> bits -> bytes in the file.
        biases: bytes of biases in these.
    """

    members: Mapping[str, list[Layer]]
    sizes: Mapping[str, Mapping[int, int]]
    biases: int

    @classmethod
    def of(
        cls,
        *,
        checkpoint: Checkpoint,
        method: Method,
        config: MixedConfig,
        plan: Plan,
        choices: Sequence[int],
        device: str,
    ) -> "_Units":
        """The units of the layers that a plan quantizes; what stands outside the blocks keeps the most bits."""
        quantized = {layer.name for layer in plan.layers}
        members: dict[str, list[Layer]] = {}
        sizes: dict[str, dict[int, int]] = {}
        for layer in layers_to_quantize(checkpoint, method, config, device):
            if layer.name not in quantized:
                continue
            unit = _unit_of(layer.name) if layer.in_block else layer.name
            members.setdefault(unit, []).append(layer)
            own = sizes.setdefault(unit, {})
            for bits in choices if layer.in_block else choices[-1:]:
                planned = method.plan_layer(layer, config.of(layer.name).with_bits(bits))
                own[bits] = own.get(bits, 0) + planned.disk_bytes
        return cls(members, sizes, sum(layer.bias_bytes for own in members.values() for layer in own))

    def check(self, budget: "_Budget", name: str) -> int:
        """Refuse a budget that cannot be kept; give the bytes with the most bits."""
        sizes = [own.values() for own in self.sizes.values()]
        least, most = sum(map(min, sizes)), sum(map(max, sizes))
        if least > budget.size:
            raise ConfigError(
                f"{type(budget.config).__name__}: {budget.asked} is out of reach for {name}: "
                f"it takes {budget.described(least)} to {budget.described(most)}"
            )
        return most

    def choose(self, sensitivity: Sensitivity, budget: "_Budget") -> tuple[dict[str, int], str]:
        """Bits of each unit, and what is told of them."""
        known = sensitivity.by_layer()
        choices = {
            unit: {
                bits: Choice(size, sum(known[layer.name][bits].loss for layer in self.members[unit] if layer.in_block))
                for bits, size in own.items()
            }
            for unit, own in self.sizes.items()
        }
        chosen = allocate(choices, budget.size)
        variance = sum(
            known[layer.name][bits].standard_error ** 2
            for unit, bits in chosen.items()
            for layer in self.members[unit]
            if layer.in_block
        )
        taken, loss = total_size(choices, chosen), total_loss(choices, chosen)
        where = "text that the model wrote" if sensitivity.text == "self" else sensitivity.text
        return chosen, (
            f"{budget.asked}: {budget.described(taken)}, given to layers by sensitivity, measured in "
            f"{format_seconds(sensitivity.seconds)} on {sensitivity.num_samples} x {sensitivity.seq_len} tokens of "
            f"{where}; predicted loss of rounding {loss:.3g} +- {variance**0.5:.1g} nats per token"
        )


@dataclass(frozen=True)
class _Budget:
    """Bytes that the quantized layers may take in the file, biases included.

    Attributes:
        size: the most bytes.
        asked: the target as it was given.
        other: bytes of all else in the files: for `target_size` only.
        weights: elements of the quantized layers.
        biases: bytes of their biases.
    """

    config: MixedConfig
    size: int
    asked: str
    other: int
    weights: int
    biases: int

    @classmethod
    def of(cls, config: MixedConfig, plan: Plan, biases: int) -> "_Budget":
        weights = sum(layer.num_weights for layer in plan.layers)
        if config.target_bits is not None:
            size = floor(config.target_bits * weights / 8) + biases
            return cls(config, size, f"target_bits={config.target_bits:g}", 0, weights, biases)
        entries = sum(_TENSORS * (len(layer.name) + _ENTRY_BYTES) for layer in plan.layers)
        entries += sum(_OTHER_TENSORS * (len(module.name) + _ENTRY_BYTES) for module in plan.skipped)
        other = sum(module.disk_bytes for module in plan.skipped) + entries
        assert config.target_size is not None
        size = parse_bytes(config.target_size) - other
        return cls(config, size, f"target_size={config.target_size!r}", other, weights, biases)

    def described(self, size: int) -> str:
        """Bytes of the layers in the words of the target."""
        if self.config.target_bits is None:
            return format_bytes(size + self.other)
        return format_bits(bits_per_weight(size - self.biases, self.weights))


def _unit_of(name: str) -> str:
    """A layer's name with a `*` for the number of its expert.

    Example: the block keeps its number.

        >>> _unit_of("model.layers.3.mlp.experts.7.down_proj"), _unit_of("model.layers.3.mlp.up_proj")
        ('model.layers.3.mlp.experts.*.down_proj', 'model.layers.3.mlp.up_proj')
    """
    head, number, rest = re.split(r"(?<=\.)(\d+)(?=\.)", name, maxsplit=1)
    return head + number + re.sub(r"(?<=\.)\d+(?=\.)", "*", rest)
