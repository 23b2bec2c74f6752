"""Record that a folder was put into one file."""

from dataclasses import dataclass

from qtoolkit.files import shortened
from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_bytes, format_items


@dataclass(frozen=True)
class Archive(Record):
    """Describe a zip file that holds a saved model.

    Attributes:
        path: the zip file.
        size: its bytes.
        num_files: files in it.
    """

    path: str
    size: int
    num_files: int

    def rows(self) -> tuple[Row, ...]:
        how = "in JupyterLab's list of files, right-click it and choose Download; on Colab, in the list at the left"
        return (
            Row("zip file", shortened(self.path), f"{format_bytes(self.size)}, {format_items(self.num_files, 'file')}"),
            Row("to download it", how),
        )
