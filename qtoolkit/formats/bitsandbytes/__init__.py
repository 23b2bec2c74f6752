"""bitsandbytes' checkpoints, which transformers writes and reads: NF4, FP4 and LLM.int8()."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from qtoolkit.formats.base import Format
from qtoolkit.formats.bitsandbytes.exact import keep_exact
from qtoolkit.formats.bitsandbytes.quiet import quiet

__all__ = ["FORMAT", "keep_exact", "options_of"]


class BitsAndBytesFormat(Format):
    """See the module."""

    name = quant_method = tag = "bitsandbytes"
    packages = ("bitsandbytes",)
    layer_suffixes = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4", ".SCB")

    def method_of(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """See `Format`."""
        from transformers import BitsAndBytesConfig

        return options_of(BitsAndBytesConfig.from_dict(dict(values)))

    def readers(self, settings: Mapping[str, Any]) -> str:
        """See `Format`."""
        return "vLLM lists bitsandbytes among the formats that it reads; this model was not tried there."

    def quiet(self) -> AbstractContextManager[None]:
        """See `Format`."""
        return quiet()


def options_of(config: Any) -> tuple[str, dict[str, Any]]:
    """transformers' `BitsAndBytesConfig` as a method's name and the values of its config."""
    skipped = config.llm_int8_skip_modules
    exclude = {} if skipped is None else {"exclude": tuple(skipped)}
    if config.load_in_8bit:
        return "int8", {"threshold": config.llm_int8_threshold, **exclude}
    return config.bnb_4bit_quant_type, {
        "double_quant": config.bnb_4bit_use_double_quant,
        "compute_dtype": str(config.bnb_4bit_compute_dtype).removeprefix("torch."),
        **exclude,
    }


FORMAT = BitsAndBytesFormat()
