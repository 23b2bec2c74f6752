"""Mixed precision: rules that give layers other options by patterns of their names, and targets for the size."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, ClassVar, Self

from qtoolkit.errors import ConfigError, did_you_mean
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.module_patterns import NamePatterns
from qtoolkit.requests import option
from qtoolkit.units import parse_bytes

# A value of the option that a target gives to layers: a number of bits, or the name of a type.
Choice = int | str


@dataclass(frozen=True, kw_only=True)
class MixedConfig(MethodConfig):
    """Base of the configs whose layers may differ in some options.

    Attributes:
        mixed: the option that a target gives to layers, which is one of `per_layer_options`.

    Example: all layers 4 bits, those of the pattern 8.

        >>> from qtoolkit.methods.affine_config import AbsMax
        >>> config = AbsMax(bits=4, rules={"*.down_proj": {"bits": 8}})
        >>> config.of("model.layers.0.mlp.down_proj").bits, config.of("model.layers.0.mlp.up_proj").bits
        (8, 4)
    """

    mixed: ClassVar[str] = "bits"

    rules: Mapping[str, Mapping[str, Any]] = option(
        {}, help="options of single layers by pattern, as exclude has them; where two match, the later one counts"
    )
    target_bits: float | None = option(
        None,
        help="mean of the quantized layers, scales included, that is not exceeded: bits go to layers by sensitivity",
        unit="bits per weight",
    )
    target_size: int | str | None = option(
        None, help="size of the weight files that is not exceeded, 2 GB or a number of bytes: as target_bits"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.target_bits is not None and self.target_size is not None:
            raise ConfigError(f"{name}: target_bits and target_size are two ways to say one thing: give one of them")
        if self.target_bits is not None and not 0 < self.target_bits <= 32:
            raise ConfigError(f"{name}: target_bits must lie between 0 and 32, got {self.target_bits}")
        if self.target_size is not None:
            try:
                parse_bytes(self.target_size)
            except ConfigError as error:
                raise ConfigError(f"{name}: target_size: {error}") from error
        # Copies, so that a dict that somebody changes later changes no config.
        object.__setattr__(self, "rules", {pattern: dict(values) for pattern, values in self.rules.items()})
        allowed = self.per_layer_options()
        tried: set[str] = set()
        for pattern, values in self.rules.items():
            # A mixture has tens of thousands of rules, and few different ones.
            if repr(values) in tried:
                continue
            tried.add(repr(values))
            unknown = sorted(set(values) - set(allowed))
            if unknown:
                raise ConfigError(
                    f"{name}: rules[{pattern!r}] has no option {unknown[0]!r}: "
                    f"{did_you_mean(str(unknown[0]), allowed)}a layer may have {', '.join(allowed)}"
                )
            try:
                self._with(values)
            except ConfigError as error:
                raise ConfigError(f"rules[{pattern!r}] of {error}") from error

    @classmethod
    def per_layer_options(cls) -> tuple[str, ...]:
        """Return the options that rules may give."""
        return tuple(field.name for field in fields(cls) if field.metadata.get("per_layer"))

    @property
    def target(self) -> float | int | str | None:
        """Return `target_bits` or `target_size`, whichever is set; None where neither is."""
        return self.target_size if self.target_bits is None else self.target_bits

    @property
    def gives_choices(self) -> bool:
        """Check whether the config says already what a target would give to layers."""
        return any(self.mixed in values for values in self.rules.values())

    def choices_to_give(self) -> tuple[Choice, ...]:
        """Return the values of `mixed` that layers may get to reach a target, the smallest first."""
        return tuple(sorted(next(field.metadata["choices"] for field in fields(self) if field.name == self.mixed)))

    def of(self, layer: str) -> Self:
        """See `MethodConfig`: with the options of all rules that match, the later ones last."""
        if not self.rules:
            return self
        values: dict[str, Any] = {}
        for pattern in self._ruled.matching(layer):
            values |= self.rules[pattern]
        if all(getattr(self, name) == value for name, value in values.items()):
            return self
        # Each different config is made once: the tens of thousands of layers of a mixture of experts share a few. The
        # cache is no field, and so takes no part in comparisons.
        cache: dict[Any, Self] = vars(self).setdefault("_of_values", {})
        key = tuple(sorted(values.items()))
        if key not in cache:
            cache[key] = self._with(values)
        return cache[key]

    @cached_property
    def _ruled(self) -> NamePatterns:
        return NamePatterns(self.rules)

    def choosing(self, choice: Choice) -> Self:
        """Return this config with a value of `mixed`, without rules and targets."""
        return self._with({self.mixed: choice})

    def meeting(self, base: Choice, rules: Mapping[str, Mapping[str, Any]], *, bits: float) -> Self:
        """Return this config as it meets its target.

        Args:
            base: the value of `mixed` of layers without a rule.
            rules: that give the others theirs.
            bits: mean of the quantized layers, scales included.
        """
        return self.begun_as({self.mixed: base, "rules": rules})

    def begun_as(self, values: Mapping[str, Any]) -> Self:
        """Return this config with what an earlier job chose for the same target; other values of it are left out."""
        changes: dict[str, Any] = {name: values[name] for name in (self.mixed, "rules")}
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"rules": {pattern: dict(values) for pattern, values in self.rules.items()}}

    def _with(self, values: Mapping[str, Any]) -> Self:
        return replace(self, rules={}, target_bits=None, target_size=None, **values)


@dataclass(frozen=True, kw_only=True)
class _Bits(MethodConfig):
    """Put bits before rules and targets, in signatures and wherever options are listed."""

    bits: int


@dataclass(frozen=True, kw_only=True)
class MixedBits(MixedConfig, _Bits):
    """Base of the configs whose layers may differ in bits."""


def check_rules(config: MethodConfig, layers: Sequence[str], skipped: Sequence[str]) -> None:
    """Refuse rules that match no layer.

    Args:
        config: any config; one without rules is accepted.
        layers: full names of the layers that may be quantized.
        skipped: full names of the modules that are not quantized.

    Raises:
        ConfigError: a pattern matches no layer; the message names similar ones.
    """
    if not isinstance(config, MixedConfig):
        return
    patterns = NamePatterns(config.rules)
    used = {pattern for name in layers for pattern in patterns.matching(name)}
    for pattern in config.rules:
        if pattern in used:
            continue
        what = f"{type(config).__name__}: rules[{pattern!r}] matches no layer that is quantized"
        if any(map(NamePatterns([pattern]).match, skipped)):
            raise ConfigError(f"{what}, but some that stay as they are: leave it out, or exclude less")
        kinds = sorted({_kind(name) for name in layers})
        near = get_close_matches(_kind(pattern), kinds, n=3) or kinds
        raise ConfigError(f"{what}: there are {', '.join(f'*.{kind}' for kind in near[:8])} and full names")


def rules_of(
    choices: Mapping[str, Choice], base: Choice | None = None, *, option: str = "bits"
) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Return the choice of most layers, and the fewest rules that give the other layers theirs.

    A kind of layer that differs in most blocks takes one rule; after those comes a rule for each remaining layer.

    Args:
        choices: bits, or other values of an option, by the names of layers; a `*` in a name matches every expert.
        base: that of layers without a rule; None for the one that most layers have.
        option: the option's name.

    Example: most layers have 4 bits, all named `v` have 8, and one has 3.

        >>> rules_of({"m.0.q": 4, "m.1.q": 4, "m.2.q": 3, "m.0.v": 8, "m.1.v": 8, "m.2.v": 8, "m.0.k": 4, "m.1.k": 4})
        (4, {'*.v': {'bits': 8}, 'm.2.q': {'bits': 3}})
    """
    base = _most_common(choices.values()) if base is None else base
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in choices:
        kinds[_kind(name)].append(name)
    of_kind = {kind: _most_common(choices[name] for name in names) for kind, names in kinds.items()}
    # An output head may have no module around it, so that its name has no dot.
    patterns = {kind: kind if kind in names else f"*.{kind}" for kind, names in kinds.items()}
    rules = {patterns[kind]: {option: choice} for kind, choice in of_kind.items() if choice != base}
    rules |= {name: {option: choice} for name, choice in choices.items() if choice != of_kind[_kind(name)]}
    return base, rules


def _most_common(values: Iterable[Choice]) -> Choice:
    return Counter(values).most_common(1)[0][0]


def _kind(name: str) -> str:
    """Return the last part of a layer's name, which layers of one kind share: "down_proj"."""
    return name.rpartition(".")[2]
