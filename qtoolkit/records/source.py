"""Record which model a job starts from."""

from dataclasses import dataclass

from qtoolkit.records.base import Record, Row, size_row
from qtoolkit.units import format_bytes, format_count


@dataclass(frozen=True)
class ModelSource(Record):
    """Identify a model on the Hub, on the disk or in memory, before it is quantized.

    Attributes:
        name: the user's name for it: a Hub id, a path, or a loaded model's `name_or_path`.
        path: the local folder or `.gguf` file that holds the weights; None for a loaded model.
        commit_hash: the Hub commit that was read, 40 hexadecimal digits; None if it is not from the Hub.
        format: "safetensors", "gguf", "loaded", or "config" for a plan from a config alone.
        architecture: the class that runs it, "LlamaForCausalLM".
        dtype: the type that its weights are loaded in, "bfloat16".
        num_parameters: parameters, tied ones counted once.
        footprint: bytes of all parameters and buffers in `dtype`, tied ones counted once.
        disk_size: bytes of the weight files; None for a loaded model.
        stored_as: how the files store weights that were expanded to `dtype`, "FP8"; empty for full precision.
    """

    added_fields = frozenset({"stored_as"})

    name: str
    path: str | None
    commit_hash: str | None
    format: str
    architecture: str
    dtype: str
    num_parameters: int
    footprint: int
    disk_size: int | None
    stored_as: str = ""

    def rows(self) -> tuple[Row, ...]:
        return (
            Row("model", self.name, f"commit {self.commit_hash}" if self.commit_hash else ""),
            Row("architecture", self.architecture),
            Row("parameters", format_count(self.num_parameters), f"{self.format}, {self._types()}"),
            Row("footprint", format_bytes(self.footprint)),
            *size_row("on disk", self.disk_size),
        )

    def _types(self) -> str:
        return f"{self.dtype} expanded from {self.stored_as}" if self.stored_as else self.dtype
