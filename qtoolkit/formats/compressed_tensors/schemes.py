"""How a compressed-tensors checkpoint stores its layers, and which layer has which scheme."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from qtoolkit.matching import Expressions

# Class names that stand for every linear layer.
LINEAR = "Linear"


@dataclass(frozen=True)
class Scheme:
    """How the weights of some layers are stored.

    Attributes:
        bits: size of a code.
        group_size: inputs that share a scale, -1 for all of them.
        symmetric: whether no zero points are stored.
        targets: names, "re:" and a regular expression that matches from the start of a name, or classes of modules.
        kind: "int", or "float" for float8 e4m3fn.
        in_bytes: whether codes take a byte each, and inputs are rounded to 8 bits too; false where codes are packed.
        block: outputs and inputs that share a scale; None where no blocks do.
    """

    bits: int
    group_size: int
    symmetric: bool
    targets: tuple[str, ...]
    kind: str = "int"
    in_bytes: bool = False
    block: tuple[int, int] | None = None


@dataclass(frozen=True)
class Schemes:
    """Everything that a `quantization_config` says of layers.

    Attributes:
        schemes: in the order of the config.
        ignore: layers that are not quantized, as in `Scheme.targets`.
        by_activation: whether columns were done by activation; None where the config does not say.
    """

    schemes: tuple[Scheme, ...]
    ignore: tuple[str, ...]
    by_activation: bool | None = None

    @property
    def embeddings(self) -> Scheme | None:
        """Return the scheme of token embedding and output head; None where these are not quantized.

        It is the last one, and targets them by their names, as `describe` writes it.
        """
        last = self.schemes[-1]
        named = bool(last.targets) and not any(one == LINEAR or one.startswith("re:") for one in last.targets)
        return last if named and len(self.schemes) > 1 else None

    def of(self, names: tuple[str, ...], classes: tuple[str, ...]) -> Scheme | None:
        """Return the scheme of a layer; None where it is not quantized.

        Exact names come first, then regular expressions, each sorted as text, then classes.

        Args:
            names: its name in the file, and others that it may be called by.
            classes: the names of its class and of the classes of that.
        """
        ignored, not_named = self._ignored
        if not ignored.isdisjoint((*names, *classes)) or not_named.first(names):
            return None
        of_target, expressions = self._targets
        named = min((name for name in names if name in of_target), default=None)
        found = named or expressions.first(names) or min((one for one in classes if one in of_target), default=None)
        return of_target[found] if found else None

    @cached_property
    def _ignored(self) -> tuple[frozenset[str], "_Expressions"]:
        """Return what is not quantized, by name or class and by regular expression: found without a look at each."""
        return frozenset(self.ignore), _Expressions(self.ignore)

    @cached_property
    def _targets(self) -> tuple[dict[str, Scheme], "_Expressions"]:
        """Return the scheme of each target, and the targets that are regular expressions, sorted."""
        of_target = {target: scheme for scheme in self.schemes for target in scheme.targets}
        return of_target, _Expressions(sorted(of_target))


class _Expressions:
    """Those of some targets that are regular expressions."""

    def __init__(self, targets: Iterable[str]) -> None:
        self._targets = [target for target in targets if target.startswith("re:")]
        self._expressions = Expressions(target.removeprefix("re:") for target in self._targets)

    def first(self, names: Iterable[str]) -> str | None:
        """Return the first that matches one of a layer's names from the start."""
        found = [index for name in names if (index := self._expressions.first(name)) is not None]
        return self._targets[min(found)] if found else None
