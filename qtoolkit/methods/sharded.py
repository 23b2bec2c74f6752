"""Methods that can run their calibration samples in shards, and their blocks each for itself."""

from dataclasses import dataclass
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.methods.mixed_precision import MixedBits
from qtoolkit.requests import option

SHARDS = (
    "parts of the samples that are run and summed up each for itself, as many as workers may share (executor); the "
    "result depends on them, and not on the workers"
)


@dataclass(frozen=True, kw_only=True)
class Sharded(MixedBits):
    """Base of configs with samples in shards, and blocks that may know nothing of one another."""

    shards: int = option(1, help=SHARDS, unit="parts", least=1, absent=1)
    propagate: bool = option(
        True,
        help="let each block see what the quantized blocks before it make; false gives each what the full-precision "
        "model makes, so that workers may do all blocks at one time, and none makes good what others have changed",
        absent=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_more_than_samples(type(self).__name__, self.shards, getattr(self, "num_samples", self.shards))

    def to_dict(self) -> dict[str, Any]:
        """See `MethodConfig`: without the one shard that all samples are by default, and blocks that see others."""
        values = super().to_dict()
        if self.shards == 1:
            del values["shards"]
        if self.propagate:
            del values["propagate"]
        return values


def refuse_unshared(config: Sharded, *, engine: str, option: str) -> None:
    """Refuse a config that leaves workers nothing to share.

    Args:
        config: the config.
        engine: that does the work.
        option: as for `Method.refuse_workers`.

    Raises:
        ConfigError: all samples are in one shard, or another engine does the work.
    """
    name = type(config).__name__
    if engine != "qtoolkit":
        raise ConfigError(f"{name}: {engine} works in one process: leave out {option}, or engine={engine!r}")
    if config.propagate:
        refuse_one_shard(name, config.shards, otherwise=", or propagate=False, which shares blocks out")


def refuse_more_than_samples(name: str, shards: int, num_samples: int) -> None:
    """Refuse shards of which some would have no sample, for a config of this name.

    Raises:
        ConfigError: there are.
    """
    if shards > num_samples:
        raise ConfigError(f"{name}: shards must be at most num_samples, {num_samples}, got {shards}")


def refuse_one_shard(name: str, shards: int, *, otherwise: str = "") -> None:
    """Refuse samples that are all in one shard, for a config of this name; `otherwise` ends the message.

    Raises:
        ConfigError: they are.
    """
    if shards == 1:
        raise ConfigError(
            f"{name}: shards=1 leaves all samples to one worker: give shards=16, or more than there will be workers "
            f"(the result depends on the shards, and not on the workers){otherwise}"
        )
