"""Write a tokenizer such that transformers 4 and 5 read the same: its own files, with keys that both know."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.config_limits import without_code
from qtoolkit.checkpoints.filenames import TEMPLATE_FILE, TOKENIZER_CONFIG
from qtoolkit.models.tokenizer import TOKENIZER_FILES
from qtoolkit.models.tokenizer_state import unchanged_source
from qtoolkit.noted import Noted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
# What transformers 5 writes of how a tokenizer was loaded, which is nobody else's matter.
_LOADING_KEYS = ("is_local", "local_files_only")


def write_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> Noted[list[str]]:
    """Write a tokenizer's files: copies of those that it was read from, unless it was changed since.

    A chat template stands in a file of its own, and in `tokenizer_config.json`, where older readers look for it.
    Several templates stand in the latter alone.

    Returns:
        The names of the files, with notes of what was left out.

    Raises:
        OSError: the files cannot be written.
    """
    source = unchanged_source(tokenizer)
    names = _saved(tokenizer, folder) if source is None else _copied(source, folder)
    template = getattr(tokenizer, "chat_template", None)
    names = _without_template_files(names, folder, template)
    if isinstance(template, str) and TEMPLATE_FILE not in names:
        (folder / TEMPLATE_FILE).write_bytes(template.encode())
        names.append(TEMPLATE_FILE)
    notes = _without_code_files(folder)
    file = folder / TOKENIZER_CONFIG
    if file.is_file():
        values = json.loads(file.read_bytes())
        both, dropped = _for_both_ages(values, template)
        notes += [f"left out of {TOKENIZER_CONFIG}, since it fetches or runs code: {what}" for what in dropped]
        if both != values:
            file.write_text(json.dumps(both, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Noted(names, tuple(notes))


def _without_code_files(folder: Path) -> list[str]:
    """Remove the code that transformers copies beside a tokenizer of the repository's own class; returns notes."""
    files = sorted(folder.glob("*.py"))
    for file in files:
        file.unlink()
    return [f"left out, since it is the tokenizer's own code: {file.name}" for file in files]


def _copied(source: Path, folder: Path) -> list[str]:
    """Copy the files of a tokenizer, byte for byte, and return their names."""
    files = [file for name in TOKENIZER_FILES if "/" not in name for file in sorted(source.glob(name))]
    names = list(dict.fromkeys(file.name for file in files if file.is_file()))
    for name in names:
        (folder / name).write_bytes((source / name).read_bytes())
    return names


def _saved(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> list[str]:
    """Let transformers write a tokenizer's files, and return their names."""
    try:
        files = tokenizer.save_pretrained(folder) or ()
    except Exception as error:
        # The tokenizers library reports a full disk as a bare Exception: "No space left on device (os error 28)".
        os_error = _RUST_ERROR.search(str(error))
        if isinstance(error, OSError) or os_error is None:
            raise
        code = int(os_error[1])
        raise OSError(code, os.strerror(code)) from error
    # Some tokenizers list files that they do not write.
    return [os.path.relpath(file, folder) for file in files if Path(file).is_file()]


def _without_template_files(names: list[str], folder: Path, template: Any) -> list[str]:
    """Remove the template's files where there are several: readers that find one of them look for no other."""
    if not isinstance(template, dict):
        return names
    gone = [name for name in names if name.endswith(".jinja")]
    for name in gone:
        (folder / name).unlink()
    if (folder / "additional_chat_templates").is_dir():
        (folder / "additional_chat_templates").rmdir()
    return [name for name in names if name not in gone]


def _for_both_ages(values: Mapping[str, Any], template: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a `tokenizer_config.json` that both ages read, and texts of the keys that name code."""
    both, dropped = without_code({key: value for key, value in values.items() if key not in _LOADING_KEYS})
    if both.get("tokenizer_class") == "TokenizersBackend":
        # Both read tokenizer.json with it; the name of transformers 5 is unknown to transformers 4.
        both["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(both.get("extra_special_tokens"), list):
        # transformers 4 wants a dict under this key, and has the list under the other, which transformers 5 reads too.
        both["additional_special_tokens"] = both.pop("extra_special_tokens")
    if isinstance(template, dict):
        both["chat_template"] = [{"name": name, "template": text} for name, text in template.items()]
    elif isinstance(template, str):
        both["chat_template"] = template
    return both, dropped
