"""Define the options of `qtoolkit.repair`."""

from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.requests.model import MODEL, HubSource, OnDevice, WithProgress
from qtoolkit.requests.option_field import describe, option
from qtoolkit.units import parse_bytes


@dataclass(frozen=True)
class RepairRequest(OnDevice, HubSource, WithProgress):
    """Hold a quantized model, its base, the size of the adapter, the texts, and where the adapter goes."""

    model: Any = field(metadata=describe("a folder or a Hub id of a quantized model, or a `QuantizedModel`"))
    base: Any = field(metadata=describe(f"the full-precision model that it was made from: {MODEL}"))
    output: str | PathLike[str] = field(
        metadata=describe("folder to save the adapter in, which appears when it is complete", "DIR")
    )
    _: KW_ONLY
    rank: int = option(32, help="rank of the adapter: each layer's two matrices have so many rows and columns", least=1)
    target_size: int | str | None = option(
        None,
        help="bytes of the adapter, 30 MB: each layer gets the rank that gives back most for them, instead of rank",
        empty="the same rank for all layers",
        metavar="BYTES",
    )
    in_8_bits: bool = option(False, help="store the adapter's numbers in 8 bits (float8_e4m3fn), half the bytes")
    calibration: Any = option(
        "wikitext2", help="text to repair on: wikitext2, c4, a file of texts or chats, a list or a datasets.Dataset"
    )
    num_samples: int = option(128, help="samples of the calibration text", unit="samples", least=1)
    text: Any = option("wikitext2", help="text to measure on, which is not that of the calibration")
    seq_len: int = option(512, help="tokens of a sample, and of a window that is measured", unit="tokens", least=2)
    num_tokens: int = option(16384, help="tokens of the text to measure on", unit="tokens", least=2)
    resume: bool = option(True, help="go on with what an earlier call had done when it was stopped", empty="start anew")
    overwrite: bool = option(False, help="replace the output folder when it exists")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_size is not None:
            if self.rank != type(self).rank:
                raise ConfigError(
                    f"rank={self.rank} and target_size={self.target_size!r} both say how large the adapter is: give one"
                )
            try:
                parse_bytes(self.target_size)
            except ConfigError as error:
                raise ConfigError(f"target_size: {error}") from None

    @property
    def target_bytes(self) -> int | None:
        """Return `target_size` in bytes; None where it is not given."""
        return None if self.target_size is None else parse_bytes(self.target_size)
