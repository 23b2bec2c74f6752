"""Checks that the bytes of a saved model are those that were written, and agree with each other."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints import read_tensors
from qtoolkit.checkpoints.names import INDEX_FILE, RECEIPT_FILE, SINGLE_FILE
from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.errors import QToolkitError, oneline, printable
from qtoolkit.files import MAX_JSON_BYTES, read_json
from qtoolkit.formats import format_of
from qtoolkit.methods import config_of_checkpoint
from qtoolkit.models.foreign_codes import find_codes
from qtoolkit.publishing.artifact import Artifact
from qtoolkit.publishing.receipt_file import bytes_by_dtype, sha256_of
from qtoolkit.records import Check
from qtoolkit.units import format_bytes

# What may come to a model after it was saved: its card, a licence, evaluation results, git's own file.
_ADDED = (RECEIPT_FILE, "README.md", "LICENSE*", ".gitattributes", ".eval_results/*.yaml")
# Of a tensor in the header of its file, which no plan counts.
_HEADER_BYTES = 200
# Of a tensor in an index: its name, and its file's.
_INDEX_BYTES = 1_000
AGAIN = "save or download it again"
# Instead of it where the bytes are those that were written, which no download changes.
ANEW = "make it anew: its files are as they were written"


def check_regular(artifact: Artifact) -> Check | None:
    """Whether all that lies there are folders and files, no Git LFS pointers; None where there is nothing to tell.

    A link out of the folder is told where the receipt vouches for what is behind it, and fails otherwise: what is
    published of it would be a file of this machine that nobody named.
    """
    files = artifact.receipt.files if artifact.receipt else {}
    loose = [name for name in artifact.outside if name not in files]
    problems = [f"{printable(name)[-100:]} {what}" for name, what in artifact.odd.items()]
    told = (lfs_problem(artifact.path / name).replace(f"{artifact.path}/", "") for name in artifact.names)
    problems += [printable(problem) for problem in told if problem]
    if artifact.receipt is not None:
        problems += [f"{name} is a link out of the folder" for name in loose]
    if problems:
        return of("regular files", problems, "", "put the file itself in its place, or remove it")
    if not artifact.outside:
        return None
    shown = ", ".join(artifact.outside[:3]) + ("" if len(artifact.outside) <= 3 else ", ...")
    links = f"{len(artifact.outside)} files are links out of the folder: {shown}"
    return Check("regular files", None if loose else True, links, "a copy of the folder may lack them")


def check_receipt(artifact: Artifact) -> Check:
    """Whether there is a receipt that can be read."""
    if artifact.receipt is not None:
        version = artifact.receipt.versions.get("qtoolkit", "")
        return Check("receipt", True, f"{artifact.receipt.recipe}, by qtoolkit {version}")
    if artifact.receipt_error:
        return Check("receipt", False, artifact.receipt_error)
    return Check("receipt", None, f"no {RECEIPT_FILE}", "verified without a receipt: by what its files alone tell")


def check_hashes(artifact: Artifact) -> Check:
    """Whether every file is there and is what was written, and no other came to them."""
    if artifact.receipt is None:
        return without_receipt("file hashes")
    problems, size = [], 0
    for name, entry in artifact.receipt.files.items():
        file = artifact.path / name
        size += entry.size
        if name not in artifact.names:
            problems.append(f"{name} is missing")
        elif file.stat().st_size != entry.size:
            problems.append(f"{name} has {file.stat().st_size} bytes instead of {entry.size}")
        elif sha256_of(file) != entry.sha256:
            problems.append(f"{name} has other content")
    others = [name for name in artifact.names if name not in artifact.receipt.files]
    added = [name for name in others if not any(fnmatchcase(name, pattern) for pattern in _ADDED)]
    problems += [f"{name} was not written by the job" for name in added]
    changed = len(problems) > len(added)
    way = AGAIN if changed else "remove what the job did not write"
    return of("file hashes", problems, f"{len(artifact.receipt.files)} files, {format_bytes(size)}", way)


def check_headers(artifact: Artifact) -> Check:
    """Whether each weight file is a sound safetensors file, as long as its header says."""
    problems, count = [], 0
    for name in artifact.weight_files:
        try:
            count += len(read_tensors(artifact.path / name))
        except QToolkitError as error:
            problems.append(oneline(error).replace(f"{artifact.path}/", ""))
    if not artifact.weight_files:
        problems.append("no *.safetensors file")
    return of("safetensors", problems, f"{count} tensors in {len(artifact.weight_files)} files", AGAIN)


def check_index(artifact: Artifact) -> Check:
    """Whether the index names exactly the tensors that the weight files hold, each in its file."""
    name, files = "index", artifact.weight_files
    if INDEX_FILE not in artifact.names:
        alone = files == (SINGLE_FILE,)
        problems = [] if alone else [f"{len(files)} weight files without {INDEX_FILE}"]
        return of(name, problems, f"one file, {SINGLE_FILE}", AGAIN)
    if SINGLE_FILE in files:
        return Check(name, False, f"{SINGLE_FILE} stands beside {INDEX_FILE}", "remove the one that is left over")
    try:
        held = {tensor: file for file in files for tensor in read_tensors(artifact.path / file)}
        size = sum(bytes_by_dtype(artifact.path).values())
    except QToolkitError:
        return Check(name, None, "a weight file is damaged", "see the check of the safetensors files")
    index = read_json(artifact.path / INDEX_FILE, max_bytes=MAX_JSON_BYTES + _INDEX_BYTES * len(held))
    metadata, named = index.get("metadata"), index.get("weight_map")
    named = named if isinstance(named, dict) else {}
    problems = [f"{tensor} is said to be in {file}" for tensor, file in named.items() if held.get(tensor) != file]
    problems += [f"{tensor} of {file} is not in it" for tensor, file in held.items() if tensor not in named]
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    if said not in (None, size):
        problems.append(f"its total_size is {said} instead of {size}")
    return of(name, problems, f"{len(held)} tensors in {len(files)} files", AGAIN)


def check_dtypes(artifact: Artifact) -> Check:
    """Whether the weight files hold as many bytes of each type as were written, and as many as were planned."""
    name = "dtypes and sizes"
    if artifact.receipt is None:
        return without_receipt(name)
    try:
        found = bytes_by_dtype(artifact.path)
        tensors = sum(len(read_tensors(artifact.path / file)) for file in artifact.weight_files)
    except QToolkitError:
        return Check(name, None, "a weight file is damaged", "see the check of the safetensors files")
    written = artifact.receipt.dtypes
    problems = [
        f"{format_bytes(found.get(dtype, 0))} of {dtype} instead of {format_bytes(written.get(dtype, 0))}"
        for dtype in sorted({*found, *written})
        if found.get(dtype) != written.get(dtype)
    ]
    planned, size = artifact.receipt.memory.predicted_disk_after, sum(found.values())
    if planned is not None and abs(size - planned) > _HEADER_BYTES * tensors:
        problems.append(f"{format_bytes(size)} instead of the {format_bytes(planned)} that were planned")
    told, files = artifact.receipt.memory.disk_after, artifact.receipt.files
    lies = sum(files[file].size for file in artifact.weight_files if file in files)
    if told is not None and abs(told - lies) > _HEADER_BYTES * tensors:
        problems.append(f"weight files of {format_bytes(lies)} instead of {format_bytes(told)}")
    seen = ", ".join(f"{dtype} {format_bytes(count)}" for dtype, count in found.items())
    return of(name, problems, seen, AGAIN)


def check_config(artifact: Artifact) -> Check:
    """Whether transformers has a class of its own for the config, and reads it."""
    try:
        folders.check_loadable(artifact.path)
        config = folders.load_config(artifact.path)
    except QToolkitError as error:
        return Check("config", False, oneline(error).replace(str(artifact.path), "the folder"))
    architecture = (config.architectures or [config.model_type])[0]
    return Check("config", True, f"{architecture}, {str(config.dtype).removeprefix('torch.')}")


def check_quantization(artifact: Artifact) -> Check:
    """Whether the config says of the quantization what the receipt says, and what the tensors show."""
    name, values = "quantization config", artifact.config.get("quantization_config")
    if not isinstance(values, dict | None):
        return Check(name, False, f"{values!r:.60} in config.json", "it must be an object, or not be there")
    if values is None:
        codes = _codes(artifact)
        if artifact.receipt is None and codes is None:
            return Check(name, None, "none in config.json", "a model in full precision")
        told = "none in config.json" if codes is None else f"none in config.json, and {codes}"
        return Check(name, False, told, AGAIN)
    own = format_of(values)
    problems = [] if own is None else list(own.problems(artifact.path, values))
    try:
        config = config_of_checkpoint(values)
    except (QToolkitError, KeyError, TypeError) as error:
        return Check(name, False if artifact.receipt else None, oneline(error))
    if artifact.receipt is not None:
        said, made = {"method": config.method} | config.to_dict(), artifact.receipt.settings
        problems += [
            f"{key} is {said[key]} instead of {wanted}"
            for key, wanted in {"method": artifact.receipt.method, **made}.items()
            if key in _TOLD and key in said and said[key] != wanted
        ]
    return of(name, problems, f"{artifact.quant_method}, method {config.method}", AGAIN)


def _codes(artifact: Artifact) -> str | None:
    """A tensor of codes, which loads as if it were a weight without a config that says so; None where there is none."""
    try:
        tensors = folders.read_weights(artifact.path)
    except QToolkitError:
        return None
    return find_codes(tensors, lambda name: name.endswith(".weight"))


# Options that a checkpoint's config tells in the words of ours; others, such as exclude, it tells in its own.
_TOLD = (
    *("method", "bits", "group_size", "sym", "desc_act", "checkpoint_format", "granularity"),
    *("double_quant", "compute_dtype", "threshold"),
)


def of(name: str, problems: Iterable[str], value: str, note: str) -> Check:
    """A check that fails by its problems, of which three are shown; `value` is what was seen where there are none."""
    found = list(problems)
    if not found:
        return Check(name, True, printable(value))
    rest = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return Check(name, False, "; ".join(printable(problem[:200]) for problem in found[:3]) + rest, note)


def without_receipt(name: str) -> Check:
    """A check that needs a receipt where there is none."""
    return Check(name, None, "not known", f"without {RECEIPT_FILE} nothing tells what was written")
