"""Record which models a search found on this machine and on the Hub."""

from dataclasses import dataclass

from qtoolkit.records.base import Grid, Record, Row, note_rows
from qtoolkit.units import format_bytes, format_count, format_items

_LOCATIONS = {"cache": "on this machine", "folder": "folder", "hub": "on the Hub"}
_HEADER = (
    "model", "where", "architecture", "parameters", "size", "licence", "gated", "formats", "downloads", "quantized",
)  # fmt: skip


@dataclass(frozen=True)
class FoundModel(Record):
    """Describe one model as far as it is known without reading weights; unknown values are None.

    Attributes:
        name: as `qt.plan` and the other verbs accept it: a Hub id, a `.gguf` file of one, a folder or a `.gguf` file. A
            repository of `.gguf` files alone is no model: searched by its whole name, these files are found.
        place: "cache" if it is complete in the local Hub cache, "folder" for a path on this machine, or "hub".
        architecture: the model class, "LlamaForCausalLM"; for a `.gguf` file the name stored there, "llama".
        num_parameters: number of parameters.
        size: bytes of the weight files; not known if a repository has several `.gguf` files.
        license: as the model card names it, "apache-2.0".
        gated: whether only users who accept its terms may download it.
        formats: file formats of the weights: "safetensors", "gguf", "pickle".
        downloads: from the Hub, in the last 30 days.
        quantized: the method of an already quantized model, "gptq"; None for one in full precision.
    """

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

    @property
    def holds_files(self) -> bool:
        """Return whether it is a repository of `.gguf` files, one of which has to be named."""
        return self.place == "hub" and self.formats == ("gguf",) and ":" not in self.name and self.name.count("/") == 1

    def rows(self) -> tuple[Row, ...]:
        return tuple(Row(name, value) for name, value in zip(_HEADER, self.cells(), strict=True) if value)

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table line; a cell is empty if the value is not known."""
        return (
            self.name,
            _LOCATIONS.get(self.place, self.place),
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
    """Hold the results of a search for models.

    Attributes:
        text: the search text; empty for all models.
        models: those on this machine, then those on the Hub, the most downloaded first; each name occurs once.
        notes: what could not be searched or read, and why.
    """

    text: str
    models: tuple[FoundModel, ...]
    notes: tuple[str, ...] = ()

    def rows(self) -> tuple[Row, ...]:
        local = sum(model.place != "hub" for model in self.models)
        return (
            Row("search", self.text or "everything"),
            Row("found", format_items(len(self.models), "model"), f"{local} on this machine"),
            *note_rows(self.notes),
        )

    def grids(self) -> tuple[Grid, ...]:
        lines = tuple(model.cells() for model in self.models)
        return (Grid("models that generate text", _HEADER, lines),) if lines else ()
