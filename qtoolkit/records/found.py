"""Models that were found by a text, on this machine and on the Hub."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Grid, Record, Row
from qtoolkit.units import format_bytes, format_count

_PLACES = {"cache": "on this machine", "folder": "folder", "hub": "on the Hub"}
_HEADER = (
    "model", "where", "architecture", "parameters", "size", "licence", "gated", "formats", "downloads", "quantized",
)  # fmt: skip


@dataclass(frozen=True)
class FoundModel(Record):
    """One model, as far as it is known without a weight being read; what is not known is None.

    Attributes:
        name: what `qt.plan` and the other verbs take: a Hub id, a folder or a `.gguf` file.
        place: "cache" for one that is whole in the local Hub cache, "folder" for a path on this machine, or "hub".
        architecture: the model class, "LlamaForCausalLM"; of a `.gguf` file the name that it has there, "llama".
        num_parameters: of the model.
        size: bytes of its weight files; of several `.gguf` files in one repository it is not known.
        license: as its card names it, "apache-2.0".
        gated: whether it is handed out only to those who accept its terms.
        formats: of its weights: "safetensors", "gguf", "pickle".
        downloads: from the Hub, in the last 30 days.
        quantized: the method by which it was quantized already, "gptq"; None for one in full precision.
    """

    schema_version: ClassVar[int] = 1

    name: str
    place: str
    architecture: str | None = None
    num_parameters: int | None = None
    size: int | None = None
    license: str | None = None
    gated: bool | None = None
    formats: tuple[str, ...] = ()
    downloads: int | None = None
    quantized: str | None = None

    def rows(self) -> tuple[Row, ...]:
        return tuple(Row(name, value) for name, value in zip(_HEADER, self.cells(), strict=True) if value)

    def cells(self) -> tuple[str, ...]:
        """The line of a table; empty where something is not known."""
        return (
            self.name,
            _PLACES.get(self.place, self.place),
            self.architecture or "",
            "" if self.num_parameters is None else format_count(self.num_parameters),
            "" if self.size is None else format_bytes(self.size),
            self.license or "",
            "" if self.gated is None else "yes" if self.gated else "no",
            ", ".join(self.formats),
            "" if self.downloads is None else format_count(self.downloads),
            self.quantized or "",
        )


@dataclass(frozen=True)
class FoundModels(Record):
    """What a search found.

    Attributes:
        text: what was searched for; empty for everything.
        models: those on this machine, then those of the Hub, the most downloaded first; each name once.
        notes: what could not be asked or read, and why.
    """

    schema_version: ClassVar[int] = 1

    text: str
    models: tuple[FoundModel, ...]
    notes: tuple[str, ...] = ()

    def rows(self) -> tuple[Row, ...]:
        here = sum(model.place != "hub" for model in self.models)
        return (
            Row("search", self.text or "everything"),
            Row("found", f"{len(self.models)} model{'s' * (len(self.models) != 1)}", f"{here} on this machine"),
            *(Row("note", note) for note in self.notes),
        )

    def grids(self) -> tuple[Grid, ...]:
        lines = tuple(model.cells() for model in self.models)
        return (Grid("models that generate text", _HEADER, lines),) if lines else ()
