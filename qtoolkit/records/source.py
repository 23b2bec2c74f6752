"""Which model, exactly."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_bytes, format_count


@dataclass(frozen=True)
class ModelSource(Record):
    """A model as it lies on the Hub, on the disk or in memory, before anything was done to it.

    Attributes:
        name: what the user called it: a Hub id, a path, or a loaded model's `name_or_path`.
        path: the local folder or `.gguf` file that holds the weights; None for a loaded model.
        commit_hash: the Hub commit that was read, 40 hexadecimal digits; None when it is not from the Hub.
        format: "safetensors", "gguf" or "loaded".
        architecture: the class that runs it, "LlamaForCausalLM".
        dtype: the type that its weights are loaded in, "bfloat16".
        num_parameters: parameters, tied ones counted once.
        footprint: bytes of all parameters and buffers in `dtype`, tied ones counted once.
        disk_size: bytes of the weight files; None for a loaded model.
    """

    schema_version: ClassVar[int] = 1

    name: str
    path: str | None
    commit_hash: str | None
    format: str
    architecture: str
    dtype: str
    num_parameters: int
    footprint: int
    disk_size: int | None

    def rows(self) -> tuple[Row, ...]:
        rows = [
            Row("model", self.name, f"commit {self.commit_hash}" if self.commit_hash else ""),
            Row("architecture", self.architecture),
            Row("parameters", format_count(self.num_parameters), f"{self.format}, {self.dtype}"),
            Row("footprint", format_bytes(self.footprint)),
        ]
        if self.disk_size is not None:
            rows.append(Row("on disk", format_bytes(self.disk_size)))
        return tuple(rows)
