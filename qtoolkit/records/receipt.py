"""What a saved model is and does, written down by the job that made it: the file `qtoolkit.json` beside the weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.records.calibration import CalibrationReport
from qtoolkit.records.memory import MemoryReport
from qtoolkit.records.source import ModelSource
from qtoolkit.units import format_bytes


@dataclass(frozen=True)
class FileEntry(Record):
    """One file.

    Attributes:
        size: bytes.
        sha256: 64 hexadecimal digits.
    """

    schema_version: ClassVar[int] = 1

    size: int
    sha256: str

    def rows(self) -> tuple[Row, ...]:
        return (Row("file", format_bytes(self.size), f"sha256 {self.sha256}"),)


@dataclass(frozen=True)
class Behaviour(Record):
    """How a model's tokenizer and generation behave, from `qtoolkit.publishing.behaviour`.

    Attributes:
        token_ids: SHA-256 of the ids of fixed texts; None without a tokenizer.
        chat_template: SHA-256 of its text; None without one.
        special_tokens: "eos_token" -> "<|im_end|> (2)", the token and its id.
        generation: what the generation config says beside the defaults; None where the base has none.
    """

    schema_version: ClassVar[int] = 1

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
    """Logits of a model on a few tokens.

    Attributes:
        token_ids: the tokens.
        loss: mean negative log-likelihood in nats of each token after those before it.
        top_ids: of each of the last positions, the ids of the largest logits, largest first.
        top_logits: these logits.
        std: standard deviation of all logits of the position.
        device: where they were computed, "cpu" or "cuda:0".
    """

    schema_version: ClassVar[int] = 1

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
class Receipt(Record):
    """Who made a model of what and how, what it measured, and every file it wrote.

    No local path, no calibration text and no token is in it.

    Attributes:
        source: the base model; its name without the folders that lead to it, and no path.
        license: the base's licence as its card names it, "apache-2.0"; None where that is not known.
        gated: whether the Hub hands the base out only to those who accept its terms; None where that is not known.
        inherited: what else the base's card says that holds for a copy: language, license_name, license_link.
        method: the method's name.
        settings: the config's fields.
        device: where it was made, "cpu" or "cuda:0".
        versions: package -> version.
        hardware: one line a device.
        num_layers: modules that were quantized.
        skipped: reason -> how many modules stay as they were for it.
        notes: what was decided on the way.
        memory: before and after.
        calibration: how it was calibrated, without its layers; None for a method without calibration.
        behaviour: tokenizer and generation of the base.
        probe: logits of the result as they were in memory; None where they were not measured.
        dtypes: type of the format -> bytes of the tensors of this type in the weight files.
        files: name -> size and hash of every file but this one.
        source_check: whether the bytes of the base have the hashes that the Hub names, "checked: ...", or why that is
            not known, "not checked: ..."; empty where nobody said.
    """

    schema_version: ClassVar[int] = 2
    added_fields: ClassVar[frozenset[str]] = frozenset({"source_check"})

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

    @property
    def weights_fingerprint(self) -> str | None:
        """SHA-256 over the hashes of the weight files, in the order of their names; None before they are written."""
        hashes = [self.files[name].sha256 for name in sorted(self.files) if name.endswith(".safetensors")]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest() if hashes else None

    @property
    def recipe(self) -> str:
        """The method with its settings, as a line."""
        return f"{self.method} ({', '.join(f'{name}={value}' for name, value in self.settings.items())})"

    def rows(self) -> tuple[Row, ...]:
        return (
            *self.source.rows()[:1],
            *((Row("bytes of the base", self.source_check),) if self.source_check else ()),
            Row("licence of the base", self.license or "not known"),
            Row("recipe", self.recipe),
            Row("device", self.device, ", ".join(self.hardware)),
            *self.memory.rows(),
            Row("quantized layers", str(self.num_layers)),
            *(Row("skipped", f"{count} module{'s' * (count > 1)}", why) for why, count in self.skipped.items()),
            *(self.calibration.rows() if self.calibration else ()),
            *(self.probe.rows() if self.probe else ()),
            *(Row("note", note) for note in self.notes),
            Row("files", str(len(self.files)), format_bytes(sum(file.size for file in self.files.values()))),
        )
