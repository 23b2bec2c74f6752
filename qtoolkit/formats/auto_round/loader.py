"""Load AutoRound's checkpoints by transformers' `from_pretrained`, without auto-round.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

from typing import Any

from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from qtoolkit.formats.auto_round import QUANT_METHODS
from qtoolkit.formats.stored_loader import OWN_PREFIX
from qtoolkit.optional import is_installed


class AutoRoundConfig:
    """Reads a `quantization_config` as that of the format whose packing it names."""

    @classmethod
    def from_dict(cls, values: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """See transformers' `QuantizationConfigMixin`."""
        from qtoolkit.formats.auto_round.config import translate

        translated = translate(values)
        own = f"{OWN_PREFIX}{translated['quant_method']}"
        kind: Any = AUTO_QUANTIZATION_CONFIG_MAPPING[own]
        return kind.from_dict({**translated, "quant_method": own}, *args, **kwargs)


def register() -> None:
    """Let transformers read such checkpoints where auto-round, which it requires, is missing; idempotent."""
    if not is_installed("auto_round"):
        for name in QUANT_METHODS:
            AUTO_QUANTIZATION_CONFIG_MAPPING[name] = AutoRoundConfig
