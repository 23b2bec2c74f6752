"""Put a saved model into one zip file, to be downloaded from a machine that has no other way out."""

import secrets
import zipfile
from pathlib import Path

from qtoolkit.errors import DiskFullError, ModelNotFoundError, OutputError, OutputExistsError, oneline
from qtoolkit.files import rename_new, sync_file, sync_folder
from qtoolkit.measure.disk import free_disk
from qtoolkit.records import Archive, OnProgress, ProgressEvent
from qtoolkit.units import format_bytes

_PIECE = 2**24
# Headers of a zip file, for each file in it.
_OVERHEAD = 1000


def zip_folder(folder: Path, *, on_progress: OnProgress) -> Archive:
    """Put all files of a folder into FOLDER.zip beside it, as they are: packed weights do not become smaller.

    Args:
        folder: a saved model.
        on_progress: called with the bytes done, some times a second; if it raises, nothing is left behind.

    Raises:
        ModelNotFoundError: there is no such folder.
        OutputExistsError: FOLDER.zip exists.
        DiskFullError: the disk has not enough room for a second copy.
        OutputError: it cannot be read or written.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"there is no folder {folder}: quantize again")
    output = folder.with_name(f"{folder.name}.zip")
    if output.exists():
        raise OutputExistsError(f"{output} exists: download it, or remove or rename it first")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    total = sum(file.stat().st_size for file in files)
    needed, free = total + _OVERHEAD * len(files), free_disk(folder)
    if free < needed:
        raise DiskFullError(f"{output} takes {format_bytes(needed)}, and {format_bytes(free)} are free: free some")
    # The name is unique to this call, so that no other job writes the same file.
    beside = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        _write(beside, folder, files, total, on_progress)
        sync_file(beside)
        rename_new(beside, output)
        sync_folder(output.parent)
    except OSError as error:
        raise OutputError(f"{output} cannot be written ({oneline(error)}): free its disk, or save elsewhere") from error
    finally:
        beside.unlink(missing_ok=True)
    return Archive(path=str(output), size=output.stat().st_size, num_files=len(files))


def _write(beside: Path, folder: Path, files: list[Path], total: int, on_progress: OnProgress) -> None:
    done = 0
    # Times before 1980, which a zip file cannot hold, come from some file systems.
    with zipfile.ZipFile(beside, "x", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
        for file in files:
            entry = zipfile.ZipInfo.from_file(
                file, Path(folder.name, file.relative_to(folder)), strict_timestamps=False
            )
            with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                while piece := source.read(_PIECE):
                    target.write(piece)
                    done += len(piece)
                    on_progress(ProgressEvent("save", done, total, "bytes", file.name))
