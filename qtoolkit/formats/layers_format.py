"""The base of the formats whose config names a method, its options, and the layers, which the method builds."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from qtoolkit.formats.base import Format, LayersOf, Values

if TYPE_CHECKING:
    from qtoolkit.models.checkpoint import Checkpoint


class LayersFormat(Format):
    """Base of the formats whose `quantization_config` names the method, its options, and the quantized layers.

    The method builds those layers, in transformers' own loader too. Example of an entry in `config.json`:
    `{"quant_method": "qtoolkit", "method": "absmax", "options": {"bits": 8}, "layers": ["lm_head"]}`.
    """

    def method_of(self, values: Values) -> tuple[str, Values]:
        """See `Format`."""
        return values["method"], values["options"]

    def num_layers(self, values: Values, names: Iterable[str]) -> int | None:
        """See `Format`."""
        layers = values.get("layers")
        return len(layers) if isinstance(layers, list) else None

    def corrected(self, checkpoint: "Checkpoint") -> "Checkpoint":
        """See `Format`: say of a mixture whose experts are in 16 bits, as in older files, that they are excluded."""
        from qtoolkit.formats.split_experts import with_experts_excluded

        return with_experts_excluded(checkpoint)

    def quantization_config(self, method: str, options: Values, layers: Sequence[str]) -> Any:
        """See `Format`."""
        from qtoolkit.formats.loader import LayersConfig

        return LayersConfig(method, dict(options), list(layers), quant_method=self.quant_method)

    def register(self, layers_of: LayersOf) -> None:
        """See `Format`."""
        from qtoolkit.formats.loader import register

        register(self.quant_method, layers_of)
