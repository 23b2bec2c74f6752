"""Record where a saved model comes from, how it was made and behaves: the file `qtoolkit.json` beside its weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from qtoolkit.records.base import Record, Row, note_rows, row_if
from qtoolkit.records.calibration import CalibrationReport
from qtoolkit.records.memory import MemoryReport
from qtoolkit.records.source import ModelSource
from qtoolkit.units import format_bytes, format_items, format_share

_WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True)
class FileEntry(Record):
    """Hold the size and hash of one file.

    Attributes:
        size: bytes.
        sha256: 64 hexadecimal digits.
    """

    size: int
    sha256: str

    def rows(self) -> tuple[Row, ...]:
        return (Row("file", format_bytes(self.size), f"sha256 {self.sha256}"),)


@dataclass(frozen=True)
class Behaviour(Record):
    """Describe the behaviour of a model's tokenizer and generation config, from `qtoolkit.publishing.behaviour`.

    Attributes:
        token_ids: SHA-256 of the token ids of fixed texts; None without a tokenizer.
        chat_template: SHA-256 of the template's text; None without one.
        special_tokens: "eos_token" -> "<|im_end|> (2)", the token and its id.
        generation: values of the generation config that are not defaults; None if the base has no such config.
    """

    token_ids: str | None
    chat_template: str | None
    special_tokens: Mapping[str, str]
    generation: Mapping[str, Any] | None

    def rows(self) -> tuple[Row, ...]:
        return (
            Row("token ids", self.token_ids or "no tokenizer"),
            Row("chat template", self.chat_template or "none"),
            *(Row(name, token) for name, token in self.special_tokens.items()),
            *(Row(name, str(value)) for name, value in (self.generation or {}).items()),
        )


@dataclass(frozen=True)
class Probe(Record):
    """Hold the largest logits of a model on a few tokens, to compare with those of the saved model.

    Attributes:
        token_ids: the tokens.
        loss: mean negative log-likelihood in nats of each token after those before it.
        top_ids: for each of the last positions, the ids of the largest logits, largest first.
        top_logits: these logits.
        std: standard deviation of all logits of each of these positions.
        device: where they were computed, "cpu" or "cuda:0".
    """

    token_ids: tuple[int, ...]
    loss: float
    top_ids: tuple[tuple[int, ...], ...]
    top_logits: tuple[tuple[float, ...], ...]
    std: tuple[float, ...]
    device: str

    def rows(self) -> tuple[Row, ...]:
        return (
            Row("loss on a probe", f"{self.loss:.4f} nats per token", f"{len(self.token_ids)} tokens, {self.device}"),
        )


@dataclass(frozen=True)
class TakenOver(Record):
    """Describe codes that a conversion took over.

    Attributes:
        recipe: how they were chosen, "gptq (bits=4, ...)"; empty where the base is somebody else's quantized model, of
            which nothing tells it.
        format: how they are stored now, by the format's name of its way to pack codes.
    """

    recipe: str
    format: str

    @property
    def is_of_base(self) -> bool:
        """Whether the base was quantized already, so that nothing but the conversion is known."""
        return not self.recipe

    def rows(self) -> tuple[Row, ...]:
        return (Row("codes of", self.recipe or "the base, which was quantized", f"stored as {self.format}"),)


@dataclass(frozen=True)
class Receipt(Record):
    """Describe how a saved model was made, from which base, what was measured, and every file written.

    It holds no local path, no calibration text and no token.

    Attributes:
        source: the base model; a local one by its folder's own name, without a path.
        license: the base's licence as its card names it, "apache-2.0"; None if it is not known.
        gated: whether the Hub gives the base only to users who accept its terms; None if that is not known.
        inherited: other entries of the base's card that hold for a copy: language, license_name, license_link.
        method: the method's name.
        settings: the config's fields.
        device: where it was quantized, "cpu" or "cuda:0".
        versions: package -> version.
        hardware: one line for each device.
        num_layers: number of quantized modules.
        skipped: reason -> number of modules that were not quantized for it.
        notes: decisions of the job, one line each.
        memory: before and after.
        calibration: how it was calibrated, without its layers; None for a method without calibration.
        behaviour: tokenizer and generation config of the base.
        probe: logits of the result while it was in memory; None if they were not measured.
        dtypes: type of the format -> bytes of the tensors of this type in the weight files.
        files: name -> size and hash of every file but this one.
        source_check: whether the bytes of the base have the hashes that the Hub names ("checked: ..."), or why that is
            not known ("not checked: ..."); empty if nothing is known.
        taken_over: codes that a conversion took over, where `method` and `settings` do not tell how they were chosen;
            None for others.
        num_quantized: number of weights that are quantized; None in receipts of older versions.
    """

    schema_version: ClassVar[int] = 2
    added_fields: ClassVar[frozenset[str]] = frozenset({"source_check", "taken_over", "num_quantized"})

    source: ModelSource
    license: str | None
    gated: bool | None
    inherited: Mapping[str, Any]
    method: str
    settings: Mapping[str, Any]
    device: str
    versions: Mapping[str, str]
    hardware: tuple[str, ...]
    num_layers: int
    skipped: Mapping[str, int]
    notes: tuple[str, ...]
    memory: MemoryReport
    calibration: CalibrationReport | None
    behaviour: Behaviour
    probe: Probe | None
    dtypes: Mapping[str, int]
    files: Mapping[str, FileEntry]
    source_check: str = ""
    taken_over: TakenOver | None = None
    num_quantized: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """See `Record`; receipts of conversions that were written before `TakenOver` are read too."""
        return super().from_dict(_with_taken_over(values))

    @property
    def share(self) -> str:
        """Return the share of the model's weights that is quantized, "2.9 %"; empty where that is not known."""
        return "" if self.num_quantized is None else format_share(self.num_quantized, self.source.num_parameters)

    @property
    def weights_fingerprint(self) -> str | None:
        """Return the SHA-256 of the weight files' hashes, sorted by name; None before they are written."""
        hashes = [self.files[name].sha256 for name in sorted(self.files) if name.endswith(_WEIGHTS)]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest() if hashes else None

    @property
    def recipe(self) -> str:
        """Return the method with its settings, in one line."""
        return f"{self.method} ({', '.join(f'{name}={value}' for name, value in self.settings.items())})"

    def rows(self) -> tuple[Row, ...]:
        return (
            *row_if("quantized weights", self.share),
            *self.source.rows()[:1],
            *row_if("bytes of the base", self.source_check),
            Row("licence of the base", self.license or "not known"),
            Row("recipe", self.recipe),
            *(self.taken_over.rows() if self.taken_over else ()),
            Row("device", self.device, ", ".join(self.hardware)),
            *self.memory.rows(),
            Row("quantized layers", str(self.num_layers)),
            *(Row("skipped", format_items(count, "module"), why) for why, count in self.skipped.items()),
            *(self.calibration.rows() if self.calibration else ()),
            *(self.probe.rows() if self.probe else ()),
            *note_rows(self.notes),
            Row("files", str(len(self.files)), format_bytes(sum(file.size for file in self.files.values()))),
        )


def _with_taken_over(values: Any) -> Any:
    """Return a receipt's values with one record of codes that were taken over, in place of the two texts of older ones.

    These were `taken_over`, the format of layers with somebody else's codes, and `converted_from`, the recipe or the
    format of codes that stand in a file; only one had a text.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("taken_over"), str):
        return values
    kept = {key: value for key, value in values.items() if key != "converted_from"}
    recipe, stored_as = values.get("converted_from", ""), values["taken_over"]
    if isinstance(recipe, str) and recipe:
        # A file is of the format that its method is called after. A recipe has options, and a format has none.
        recipe, stored_as = recipe if recipe.endswith(")") else "", values.get("method")
    shared = {"record": TakenOver.__name__, "schema_version": TakenOver.schema_version}
    return {**kept, "taken_over": {**shared, "recipe": recipe, "format": stored_as} if stored_as else None}
