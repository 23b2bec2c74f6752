"""Define options that say on which text a model is measured, and what is measured beside its quality."""

from dataclasses import dataclass
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.requests.model import HubToken
from qtoolkit.requests.option_field import option


@dataclass(frozen=True, kw_only=True)
class TextOptions(HubToken):
    """Hold a text, how it is cut into windows, the token with which it is downloaded, and what else is measured."""

    text: Any = option(
        "wikitext2",
        help="wikitext2, c4, self (written by the base), a file or folder of texts, chats or tables, a list of them "
        "or a datasets.Dataset",
    )
    seq_len: int = option(512, help="tokens of a window", unit="tokens")
    num_tokens: int = option(16384, help="tokens of the text to take, from its beginning", unit="tokens")
    stride: int | None = option(
        None, help="tokens from one window's beginning to the next", empty="no overlap", unit="tokens"
    )
    noise_floor: bool = option(
        False, help="measure too what rounding alone does: the base in its own type against the base in float32"
    )
    speed: bool = option(True, help="measure too how fast it reads and writes", empty="measure quality alone")

    def __post_init__(self) -> None:
        super().__post_init__()
        seq_len = self.seq_len
        if seq_len < 2:
            raise ConfigError(f"seq_len must be at least 2, one token to see and one to predict, got {seq_len}")
        if self.num_tokens < seq_len:
            raise ConfigError(f"num_tokens must be at least seq_len, {seq_len}, got {self.num_tokens}")
        if self.stride is not None and not 1 <= self.stride <= seq_len:
            raise ConfigError(f"stride must lie between 1 and seq_len, {seq_len}, got {self.stride}")
