"""Read the config of a LoRA adapter of peft: how its products are scaled, and whether they are all that it does."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG
from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.files import read_json

# Entries that change more than a product of two matrices does, with what means nothing.
_MORE = {
    "use_dora": False,
    "lora_bias": False,
    "bias": "none",
    "modules_to_save": None,
    "layer_replication": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "monteclora_config": None,
}
# Beginnings that leave the base's weights as they are; with others, the matrices belong to what is left of them.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_MOST_ALPHA, _MOST_RANK, _MOST_GROUP = 1e9, 2**20, 2**16
# The name of a module, or its end; "^" says that it is the whole. Other patterns are regular expressions.
_NAME = re.compile(r"\^?[\w.-]+")
_T = TypeVar("_T")


@dataclass(frozen=True)
class AdapterConfig:
    """What a config says of an adapter's matrices.

    Attributes:
        folder: of the adapter.
        base: what it names as its base; None for nothing.
        revision: the commit or branch of that; None for nothing.
        rank, alpha: of layers that no pattern names.
        ranks, alphas: those of others, by the ends of their names.
        use_rslora: whether `alpha` is divided by the root of the rank.
        group_size: inputs that share a column of A: 1 but for QA-LoRA.
        targets: ends of the names of all layers; None where peft finds them otherwise.
        numbers: of the blocks that have the adapter; None for all.
    """

    folder: Path
    base: str | None
    revision: str | None
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    use_rslora: bool
    group_size: int
    targets: tuple[str, ...] | None
    numbers: tuple[int, ...] | None

    def scaling_of(self, name: str, rank: int) -> float:
        """Return what the product of a layer's matrices is multiplied with.

        Raises:
            CheckpointError: the config has another rank for this layer, or none at all: peft would not load it.
        """
        wanted = _of_pattern(name, self.ranks, self.rank)
        if rank != wanted:
            raise CheckpointError(
                f"{self.folder}: {name} has matrices of rank {rank}, and {ADAPTER_CONFIG} says {wanted}: get the "
                "adapter again"
            )
        if not self._targets(name):
            raise CheckpointError(
                f"{self.folder} has matrices of {name}, which {ADAPTER_CONFIG} does not name: get the adapter again"
            )
        return _of_pattern(name, self.alphas, self.alpha) / (rank**0.5 if self.use_rslora else rank)

    def _targets(self, name: str) -> bool:
        """Check whether peft puts an adapter beside a layer of this name."""
        ends = self.targets is None or any(name == end or name.endswith(f".{end}") for end in self.targets)
        counted = [int(part) for part in name.split(".") if part.isdecimal()]
        return ends and (self.numbers is None or any(number in self.numbers for number in counted))


def read_config_of(folder: Path) -> AdapterConfig:
    """Read the config of an adapter.

    Raises:
        UnsupportedModelError: it is no LoRA, or changes more than linear layers.
        CheckpointError: it is damaged.
    """
    values = read_json(folder / ADAPTER_CONFIG)
    if not values:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} is no JSON object: get the adapter again")
    kind = values.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(f"{folder} holds an adapter of type {kind!r:.40}: LoRA alone is merged")
    used = next((key for key, nothing in _MORE.items() if values.get(key, nothing) not in (nothing, None, [])), None)
    if used is not None:
        raise UnsupportedModelError(
            f"{folder} has {used}={values[used]!r:.60}, which changes more than a product of two matrices does: "
            "merge it with peft in full precision, and quantize the result"
        )
    start = values.get("init_lora_weights")
    if start not in _STARTS:
        raise UnsupportedModelError(
            f"{folder} has init_lora_weights={start!r:.40}: its matrices belong to weights that this beginning has "
            "changed, so save it by save_pretrained(..., path_initial_model_for_weight_conversion=...) of peft"
        )
    entries = _Entries(folder, values)
    base, revision = values.get("base_model_name_or_path"), values.get("revision")
    return AdapterConfig(
        folder,
        base if isinstance(base, str) and base else None,
        revision if isinstance(revision, str) and revision else None,
        rank=entries.rank("r", values.get("r", 8)),
        alpha=entries.number("lora_alpha", values.get("lora_alpha")),
        ranks={key: entries.rank("rank_pattern", one) for key, one in entries.by_names("rank_pattern").items()},
        alphas={key: entries.number("alpha_pattern", one) for key, one in entries.by_names("alpha_pattern").items()},
        use_rslora=bool(values.get("use_rslora")),
        group_size=entries.group_size("qalora_group_size") if values.get("use_qalora") else 1,
        targets=entries.targets("target_modules"),
        numbers=entries.numbers("layers_to_transform"),
    )


class _Entries:
    """Read entries of a config; each method raises CheckpointError for one that is damaged.

    Args:
        folder: of the adapter.
        values: all entries.
    """

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        self._folder = folder
        self._values = values

    def rank(self, key: str, value: Any) -> int:
        """Return a rank, which is the value of an entry or stands in it."""
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_RANK:
            raise self._damaged(key, value, "rank")
        return value

    def number(self, key: str, value: Any) -> float:
        """Return a number to scale with, which is the value of an entry or stands in it."""
        # Neither NaN nor an integer that is no float lies between.
        if isinstance(value, bool) or not isinstance(value, int | float) or not -_MOST_ALPHA <= value <= _MOST_ALPHA:
            raise self._damaged(key, value, "number to scale with")
        return float(value)

    def group_size(self, key: str) -> int:
        """Return how many inputs share a column of A."""
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_GROUP:
            raise self._damaged(key, value, "number of inputs")
        return value

    def by_names(self, key: str) -> Mapping[str, Any]:
        """Return values by the ends of names of layers.

        Raises:
            UnsupportedModelError: one is a regular expression, which may take forever.
        """
        found = self._values.get(key) or {}
        if not isinstance(found, dict):
            raise self._damaged(key, found, "object")
        other = next((pattern for pattern in found if not _NAME.fullmatch(pattern)), None)
        if other is not None:
            raise UnsupportedModelError(
                f"{self._folder} has the regular expression {other!r:.60} in {key}: write the names of layers there"
            )
        return found

    def targets(self, key: str) -> tuple[str, ...] | None:
        """Return the ends of names; None for a regular expression, or where peft chooses."""
        value = self._values.get(key)
        if value is None or isinstance(value, str):
            return None
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self._damaged(key, value, "list of names")
        return tuple(value)

    def numbers(self, key: str) -> tuple[int, ...] | None:
        """Return the numbers of blocks; None for all."""
        value = self._values.get(key)
        if value in (None, []):
            return None
        given = value if isinstance(value, list) else [value]
        if not all(isinstance(one, int) for one in given):
            raise self._damaged(key, value, "list of numbers")
        return tuple(given)

    def _damaged(self, key: str, value: Any, allowed: str) -> CheckpointError:
        shown = "a huge number" if isinstance(value, int) and abs(value) > _MOST_ALPHA else f"{value!r:.40}"
        return CheckpointError(f"{self._folder} has {key}={shown}, which is no {allowed}: get the adapter again")


def _of_pattern(name: str, patterns: Mapping[str, _T], other: _T) -> _T:
    """Return the value of the first pattern that is a name or its end, as peft finds it; another for none."""
    for pattern, value in patterns.items():
        if name == pattern.removeprefix("^") or name.endswith(f".{pattern}"):
            return value
    return other
