"""Record of which quantized model an adapter is, how it was computed and what it does: `qtoolkit_adapter.json`."""

from collections.abc import Mapping
from dataclasses import dataclass

from qtoolkit.records.base import Record, Row, row_if
from qtoolkit.records.receipt import FileEntry, Probe
from qtoolkit.records.repair import Repair


@dataclass(frozen=True)
class AdapterReceipt(Record):
    """Describe an adapter that qtoolkit computed, and the one quantized model that it belongs to.

    It holds no local path, no calibration text and no token.

    Attributes:
        repair: how it was computed, and what was measured.
        base_revision: commit of the quantized model on the Hub; None for a folder.
        base_files: name -> size and hash of the weight files of the quantized model; empty where it was not saved.
        files: name -> size and hash of the adapter's own files.
        probe_before, probe: logits of the quantized model on a few tokens, without and with the adapter.
        license: of the full-precision model, as its card names it; None if it is not known.
        gated: whether the Hub gives that model only to users who accept its terms; None if that is not known.
        versions: package -> version.
        hardware: of the device that it was computed on.
    """

    repair: Repair
    base_revision: str | None
    base_files: Mapping[str, FileEntry]
    files: Mapping[str, FileEntry]
    probe_before: Probe
    probe: Probe
    license: str | None
    gated: bool | None
    versions: Mapping[str, str]
    hardware: str

    def rows(self) -> tuple[Row, ...]:
        return (
            *self.repair.rows(),
            *row_if("revision of its base", self.base_revision),
            *(Row(f"base {name}", f"sha256 {entry.sha256[:12]}") for name, entry in self.base_files.items()),
            *(Row(name, f"sha256 {entry.sha256[:12]}") for name, entry in self.files.items()),
        )
