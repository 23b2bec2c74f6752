"""Choose the bits, or the type, of each layer so that a target is met, from measured sensitivities and exact bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import floor

from qtoolkit.errors import ConfigError
from qtoolkit.formats import Reader
from qtoolkit.methods import Choice, Layer, Method, MethodConfig, MixedConfig, rules_of
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.planning.allocation import Choice as SizeAndLoss
from qtoolkit.planning.allocation import allocate, total_loss, total_size
from qtoolkit.planning.fit import check_fits, judge
from qtoolkit.planning.layers import embeddings_of, layers_to_quantize
from qtoolkit.planning.planner import PlannedJob, plan_job
from qtoolkit.readers import fused_unit
from qtoolkit.records import THIS_MACHINE, Machine, OnProgress, Plan, RoundingLoss, Sensitivity
from qtoolkit.sensitivity import measure_sensitivity
from qtoolkit.stream.journal import JournalLocation, begun_recipe
from qtoolkit.units import bits_per_weight, format_bits, format_bytes, format_seconds, parse_bytes

# Bytes of a tensor's entry in a file's header without its name; most tensors of a quantized layer; of another module.
_ENTRY_BYTES = 130
_TENSORS = 5
_OTHER_TENSORS = 2
# Bytes by which tensors of a file of another program may be apart.
_ALIGNMENT = 32


def needs_measuring(config: MethodConfig) -> bool:
    """Check whether a config has a target, and no choices for layers yet, so that sensitivities must be measured."""
    return isinstance(config, MixedConfig) and config.target is not None and not config.gives_choices


def refuse_without_weights(checkpoint: Checkpoint) -> None:
    """Refuse a target for a model whose weights are not on this machine.

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
    """Hold a config that meets its target, and what was decided for it.

    Attributes:
        config: with the rules that meet it; unchanged if it has no target, or has such rules already.
        num_measured: numbers of bits, or types, for which the sensitivity of layers was measured; 0 for none.
        notes: what was decided, one line each.
    """

    config: MethodConfig
    num_measured: int = 0
    notes: tuple[str, ...] = ()


def meet_target(
    checkpoint: Checkpoint,
    config: MethodConfig,
    device: str,
    machine: Machine,
    *,
    rss: int,
    on_progress: OnProgress,
    measuring_device: str | None = None,
) -> MetTarget:
    """Give a config the rules that meet its target; rules that already give bits must keep to the target.

    Args:
        checkpoint: the model, whose weights can be read.
        config: any; it is returned unchanged if it has no target.
        device: where the result will live.
        machine: where the result will be made; if it is this one, the measurement must fit into it.
        rss: bytes that this process has resident now.
        on_progress: called while sensitivities are measured.
        measuring_device: where to measure; None for `device`.

    Raises:
        ConfigError: a target that cannot be reached, or rules that exceed it.
        InsufficientMemoryError: too little memory to measure.
        QToolkitError: as planning and measuring.
    """
    if not isinstance(config, MixedConfig) or config.target is None:
        return MetTarget(config)
    if config.gives_choices:
        _check_rules(checkpoint, config, device=device, machine=machine, rss=rss)
        return MetTarget(config)
    choices = config.choices_to_give()
    smallest = config.begun_as({**vars(config), config.mixed: choices[0]})
    planned = plan_job(checkpoint, smallest, device, machine, rss=rss, measures=len(choices))
    plan = planned.plan
    assert isinstance(planned.config, MixedConfig)
    if machine.name == THIS_MACHINE:
        measuring = replace(plan, phases=tuple(phase for phase in plan.phases if phase.name == "measure"))
        check_fits(judge(measuring, machine, saves=False))
    planner = planned.planner
    units = _Units.of(planner, planned)
    budget = _Budget.of(config, plan, units.biases, writes_file=planner.writes_file)
    most = units.check(budget, checkpoint.name)
    if most <= budget.size:
        largest = {unit: max(own, key=lambda choice: own[choice]) for unit, own in units.sizes.items()}
        base, rules = rules_of(units.by_pattern(largest), option=config.mixed)
        note = f"{budget.target} leaves room for {_described(choices[-1])} in every layer: nothing was measured"
        return MetTarget(config.meeting(base, {**config.rules, **rules}, bits=budget.bits(most)), notes=(note,))
    sensitivity = measure_sensitivity(
        checkpoint,
        planner,
        planned.config,
        units.to_measure(),
        device=measuring_device or device,
        on_progress=on_progress,
    )
    chosen, note = units.choose(sensitivity, budget)
    base, rules = rules_of(units.by_pattern(chosen), option=config.mixed)
    # A pattern that gave other options keeps them, and moves to the position that its new bits need.
    others = {pattern: changes for pattern, changes in config.rules.items() if pattern not in rules}
    merged = others | {pattern: {**config.rules.get(pattern, {}), **changes} for pattern, changes in rules.items()}
    size = sum(units.sizes[unit][choice] for unit, choice in chosen.items())
    return MetTarget(config.meeting(base, merged, bits=budget.bits(size)), len(choices), (note,))


def _check_rules(checkpoint: Checkpoint, config: MixedConfig, *, device: str, machine: Machine, rss: int) -> None:
    """Refuse bits or types that were given and exceed the target."""
    planned = plan_job(checkpoint, config, device, machine, rss=rss)
    plan = planned.plan
    names = {layer.name for layer in plan.layers}
    planner = planned.planner
    candidates = layers_to_quantize(checkpoint, planner, config, device)
    biases = sum(layer.bias_bytes for layer in candidates if layer.name in names)
    budget = _Budget.of(config, plan, biases, writes_file=planner.writes_file)
    size = sum(layer.disk_bytes for layer in plan.layers)
    if size > budget.size:
        name = config.mixed
        kind = "bits" if name == "bits" else "types"
        in_rules = any(name in values for values in config.rules.values())
        given = "the rules take" if in_rules else f"{name}={getattr(config, name)!r} takes"
        remedy = f"leave out their {kind}" if in_rules else "leave it out"
        raise ConfigError(
            f"{type(config).__name__}: {given} {budget.describe(size)}, more than {budget.target}: {remedy}, and "
            f"{kind} are given by sensitivity; or leave out the target"
        )


def with_rules_of(config: MethodConfig, journal: JournalLocation | None) -> MethodConfig:
    """Add the rules of an unfinished job with the same target to a config.

    On another machine the measured sensitivities differ a little, and so might the rules.
    """
    if journal is None or not isinstance(config, MixedConfig) or not needs_measuring(config):
        return config
    begun = begun_recipe(journal)
    if any(begun.get(name) != getattr(config, name) for name in ("target_bits", "target_size")):
        return config
    try:
        return config.begun_as(begun)
    except (ConfigError, KeyError, AttributeError, TypeError, ValueError, RecursionError):
        # The journal was edited and holds no rules: they are measured anew, and the job refuses the journal.
        return config


@dataclass(frozen=True)
class _Units:
    """Layers that get the same bits, since programs fuse them: q, k and v, gate and up, all experts of a block.

    Attributes:
        members: the layers of each unit.
        sizes: the bytes in the file by unit and choice.
        biases: bytes of biases in these.
    """

    members: Mapping[str, list[Layer]]
    sizes: Mapping[str, Mapping[Choice, int]]
    biases: int

    @classmethod
    def of(cls, planner: Method | Reader, planned: PlannedJob) -> "_Units":
        """Return the units of the layers that a plan quantizes.

        Layers outside the blocks get the most bits, unless the result is a file, whose embeddings are measured too. No
        program fuses what it reads of a file: units of it are single tensors.
        """
        plan = planned.plan
        config = planned.config
        assert isinstance(config, MixedConfig)
        quantized = {layer.name for layer in plan.layers}
        members: dict[str, list[Layer]] = {}
        sizes: dict[str, dict[Choice, int]] = {}
        layers = layers_to_quantize(planned.checkpoint, planner, config, plan.device)
        outer = embeddings_of(planned.checkpoint, plan.device) if planner.writes_file else ()
        for layer in (*outer, *(layer for layer in layers if layer not in outer)):
            if layer.name not in quantized:
                continue
            unit = layer.name
            if layer.in_block:
                unit = _pattern_of(layer.name) if planner.writes_file else fused_unit(layer.name)
            members.setdefault(unit, []).append(layer)
            found = planner.sizes_by_choice(layer, config.of(layer.name))
            if not (layer.in_block or planner.writes_file):
                found = dict([*found.items()][-1:])
            own = sizes.setdefault(unit, {})
            for choice, size in found.items():
                own[choice] = own.get(choice, 0) + size
        return cls(members, sizes, sum(layer.bias_bytes for own in members.values() for layer in own))

    def to_measure(self) -> dict[Layer, tuple[Choice, ...]]:
        """Return the layers for which there is a choice, with these."""
        choices = {unit: tuple(own) for unit, own in self.sizes.items() if len(own) > 1}
        return {layer: own for unit, own in choices.items() for layer in self.members[unit]}

    def check(self, budget: "_Budget", name: str) -> int:
        """Refuse a budget that is too small; return the bytes with the most bits in every layer."""
        sizes = [own.values() for own in self.sizes.values()]
        least = sum(map(min, sizes))
        most = sum(map(max, sizes))
        if least > budget.size:
            raise ConfigError(
                f"{type(budget.config).__name__}: {budget.target} is out of reach for {name}: "
                f"it takes {budget.describe(least)} to {budget.describe(most)}"
            )
        return most

    def by_pattern(self, chosen: Mapping[str, Choice]) -> dict[str, Choice]:
        """Return what was chosen for each unit by the patterns that match the names of its layers.

        What a layer of a file that cannot be stored otherwise gets is no choice.
        """
        return {
            _pattern_of(layer.name) if layer.in_block else layer.name: choice
            for unit, choice in chosen.items()
            for layer in self.members[unit]
            if len(self.sizes[unit]) > 1 or isinstance(choice, int)
        }

    def choose(self, sensitivity: Sensitivity, budget: "_Budget") -> tuple[dict[str, Choice], str]:
        """Return what is chosen for each unit, and a note that describes the choice."""
        by_layer = sensitivity.by_layer()

        def measured(unit: str, choice: Choice) -> list[RoundingLoss]:
            return [by_layer[layer.name][choice] for layer in self.members[unit] if layer.name in by_layer]

        choices = {
            unit: {
                choice: SizeAndLoss(size, sum(one.loss for one in measured(unit, choice)))
                for choice, size in own.items()
            }
            for unit, own in self.sizes.items()
        }
        chosen = allocate(choices, budget.size)
        variance = sum(one.standard_error**2 for unit, choice in chosen.items() for one in measured(unit, choice))
        size = budget.describe(total_size(choices, chosen))
        loss = total_loss(choices, chosen)
        text = "text that the model wrote" if sensitivity.text == "self" else sensitivity.text
        return chosen, (
            f"{budget.target}: {size}, given to layers by sensitivity, measured in "
            f"{format_seconds(sensitivity.seconds)} on {sensitivity.num_samples} x {sensitivity.seq_len} tokens of "
            f"{text}; predicted loss {loss:.3g} +- {variance**0.5:.1g} nats per token"
        )


@dataclass(frozen=True)
class _Budget:
    """Bytes that the quantized layers may take in the file, biases included.

    Attributes:
        size: the most bytes.
        target: the target as it was given.
        other: bytes of all else in the files: for `target_size` only.
        weights: elements of the quantized layers.
        biases: bytes of their biases.
    """

    config: MixedConfig
    size: int
    target: str
    other: int
    weights: int
    biases: int

    @classmethod
    def of(cls, config: MixedConfig, plan: Plan, biases: int, *, writes_file: bool) -> "_Budget":
        weights = sum(layer.num_weights for layer in plan.layers)
        if config.target_bits is not None:
            size = floor(config.target_bits * weights / 8) + biases
            return cls(config, size, f"target_bits={config.target_bits:g}", 0, weights, biases)
        assert config.target_size is not None
        if writes_file:
            # A tensor may begin up to an alignment later where those before it are shorter.
            padding = _ALIGNMENT * (len(plan.layers) + len(plan.skipped))
            other = plan.disk_after - sum(layer.disk_bytes for layer in plan.layers) + padding
            size = parse_bytes(config.target_size) - other
            return cls(config, size, f"target_size={config.target_size!r}", other, weights, biases)
        entries = sum(_TENSORS * (len(layer.name) + _ENTRY_BYTES) for layer in plan.layers)
        entries += sum(_OTHER_TENSORS * (len(module.name) + _ENTRY_BYTES) for module in plan.skipped)
        other = sum(module.disk_bytes for module in plan.skipped) + entries
        size = parse_bytes(config.target_size) - other
        return cls(config, size, f"target_size={config.target_size!r}", other, weights, biases)

    def describe(self, size: int) -> str:
        """Format bytes of the layers in the unit of the target."""
        if self.config.target_bits is None:
            return format_bytes(size + self.other)
        return format_bits(self.bits(size))

    def bits(self, size: int) -> float:
        """Return the bits per weight of layers that take so many bytes."""
        return bits_per_weight(size - self.biases, self.weights)


def _described(choice: Choice) -> str:
    return choice if isinstance(choice, str) else f"{choice} bits"


def _pattern_of(name: str) -> str:
    """Replace the number of a layer's expert by `*`.

    Example: the block keeps its number.

        >>> _pattern_of("model.layers.3.mlp.experts.7.down_proj"), _pattern_of("model.layers.3.mlp.up_proj")
        ('model.layers.3.mlp.experts.*.down_proj', 'model.layers.3.mlp.up_proj')
    """
    head, number, rest = re.split(r"(?<=\.)(\d+)(?=\.)", name, maxsplit=1)
    return head + number + re.sub(r"(?<=\.)\d+(?=\.)", "*", rest)
