"""How a compressed-tensors checkpoint stores its layers, and which layer has which scheme."""

from dataclasses import dataclass

from qtoolkit.matching import matches

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
        if any(_matches(target, names) or target in classes for target in self.ignore):
            return None
        of_target = {target: scheme for scheme in self.schemes for target in scheme.targets}
        targets = sorted(of_target, key=lambda target: (target.startswith("re:"), target))
        found = [target for target in targets if _matches(target, names)]
        found += [target for target in targets if target in classes]
        return of_target[found[0]] if found else None


def _matches(target: str, names: tuple[str, ...]) -> bool:
    """Check whether a target names a layer, or matches one of its names from the start."""
    if target.startswith("re:"):
        return any(matches(target.removeprefix("re:"), name) for name in names)
    return target in names
