"""The checkpoints of AutoRound, whose packing is that of another format: they are read as that."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.formats.base import Format, LayersOf

if TYPE_CHECKING:
    from qtoolkit.formats.base import Reader
    from qtoolkit.models.checkpoint import Checkpoint

__all__ = ["FORMAT"]

QUANT_METHODS = ("auto-round", "intel/auto-round")


class AutoRoundFormat(Format):
    """Read AutoRound's checkpoints by the format whose packing they have."""

    name = quant_method = tag = QUANT_METHODS[0]

    def describes(self, values: Mapping[str, Any]) -> bool:
        """See `Format`."""
        return values.get("quant_method") in QUANT_METHODS

    def method_of(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """See `Format`."""
        packed, translated = _packed_as(values)
        return packed.method_of(translated)

    def corrected(self, checkpoint: "Checkpoint") -> "Checkpoint":
        """See `Format`: the result is of the format whose packing it has."""
        from qtoolkit.formats.auto_round.config import as_packed

        checkpoint = as_packed(checkpoint)
        return _of(checkpoint).corrected(checkpoint)

    def reader(self, checkpoint: "Checkpoint") -> "Reader | None":
        """See `Format`; the checkpoint is a corrected one."""
        return _of(checkpoint).reader(checkpoint)

    def problems(self, folder: Path, values: Mapping[str, Any]) -> Sequence[str]:
        """See `Format`: what its config says that is not read."""
        from qtoolkit.errors import QToolkitError, oneline

        try:
            self.method_of(values)
        except QToolkitError as error:
            return [oneline(error)]
        return ()

    def num_layers(self, values: Mapping[str, Any], names: Iterable[str]) -> int | None:
        """See `Format`."""
        packed, translated = _packed_as(values)
        return packed.num_layers(translated, names)

    def layer_bits(self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, int]:
        """See `Format`: as the format whose packing they have."""
        found = _packed_or_none(values)
        return {} if found is None else found[0].layer_bits(found[1], shapes)

    def layer_shapes(
        self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> Mapping[str, tuple[int, int]]:
        """See `Format`: as the format whose packing they have."""
        found = _packed_or_none(values)
        return {} if found is None else found[0].layer_shapes(found[1], shapes)

    def register(self, layers_of: LayersOf) -> None:
        """See `Format`."""
        from qtoolkit.formats.auto_round.loader import register

        register()


def _packed_as(values: Mapping[str, Any]) -> tuple[Format, Mapping[str, Any]]:
    """Return the format whose packing a checkpoint has, and its `quantization_config` in that."""
    from qtoolkit.formats.auto_round.config import translate
    from qtoolkit.formats.registry import get_format

    translated = translate(values)
    return get_format(translated["quant_method"]), translated


def _packed_or_none(values: Mapping[str, Any]) -> tuple[Format, Mapping[str, Any]] | None:
    """Return the same; None for a config that is not read here."""
    from qtoolkit.errors import QToolkitError

    try:
        return _packed_as(values)
    except QToolkitError:
        return None


def _of(checkpoint: "Checkpoint") -> Format:
    """Return the format of a corrected checkpoint."""
    from qtoolkit.formats.registry import format_of

    found = format_of(checkpoint.quantization)
    assert found is not None
    return found


FORMAT = AutoRoundFormat()
