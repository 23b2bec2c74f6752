"""Results of a comparison, a file each, kept the moment they are there: the same call goes on with them."""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtoolkit.errors import OutputError, oneline
from qtoolkit.files import make_folder, path_of, user_cache, write_whole
from qtoolkit.jobs.forms import Form, Task
from qtoolkit.records import Compared
from qtoolkit.version import __version__


class KeptResults:
    """Results in a folder, each under a name made of all that it depends on.

    Args:
        folder: where they are; None for one in the user's cache.

    Attributes:
        found: results that an earlier call had kept, and that were read.
        damaged: files that could not be read.
        lost: why a result could not be kept; empty where all were.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._folder = user_cache() / "comparisons" if folder is None else path_of(folder, "output")
        self.found, self.damaged, self.lost = 0, 0, ""
        try:
            make_folder(self._folder)
        except OSError as error:
            what = f"results cannot be kept in {self._folder} ({error.strerror or oneline(error)})"
            raise OutputError(f"{what}: name another folder as output=") from error

    def read(self, keys: Mapping[str, str]) -> dict[str, Compared]:
        """The results that are there, by label.

        Args:
            keys: label -> key.
        """
        found = {}
        for label, key in keys.items():
            file = self._folder / f"{key}.json"
            if not file.exists():
                continue
            try:
                result = Compared.from_dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError):  # ConfigError is a ValueError, and so is what json raises
                self.damaged += 1
            else:
                # The same files may have been called something else.
                found[label] = replace(result, label=label)
        self.found = len(found)
        return found

    def write(self, key: str, result: Compared) -> None:
        """Keep a result that was measured. The comparison goes on where that fails, and says so."""
        if result.error:
            return
        try:
            write_whole(self._folder / f"{key}.json", json.dumps(result.to_dict(), indent=2).encode())
        except OSError as error:
            self.lost = error.strerror or oneline(error)

    def notes(self) -> tuple[str, ...]:
        """What a reader of the comparison has to know of this, one line each."""
        notes = []
        if self.found:
            notes.append(f"{_count(self.found)} kept by an earlier call: resume=False measures anew")
        if self.damaged:
            notes.append(f"{_count(self.damaged)} kept by an earlier call, could not be read, and measured again")
        if self.lost:
            notes.append(f"not all results could be kept ({self.lost})")
        return tuple(notes)


def key_of(form: Form, weights: str, task: Task) -> str:
    """SHA-256 of all that a result depends on.

    Args:
        form: what was measured.
        weights: what its own files hold, as `check_form` says.
        task: on what.
    """
    values = {
        "model": task.identity,
        "config": [form.config.method, _fingerprints(form.config.to_dict(), vars(form.config))]
        if form.config
        else None,
        "weights": weights,
        "text": task.windows.fingerprint,
        "first": task.windows.first,
        "prompts": task.prompts,
        "device": task.device,
        "noise_floor": task.noise_floor,
        "qtoolkit": __version__,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _fingerprints(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with what a text to calibrate on says in the place of its name."""
    return {
        name: _text_fingerprint(given[name]) if name == "calibration" else value for name, value in settings.items()
    }


def _text_fingerprint(text: Any) -> str:
    """SHA-256 of a file or a list of texts, and what a Dataset calls its fingerprint; a name stays one."""
    if isinstance(text, list | tuple):
        return hashlib.sha256(json.dumps(text).encode()).hexdigest()
    if isinstance(text, str | os.PathLike):
        file = Path(os.path.expanduser(text))  # noqa: PTH111  # Path raises on a home that belongs to nobody
        if not os.path.isfile(file):  # noqa: PTH113  # likewise on a name that is too long
            return os.fspath(text)
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    # A stream has none: each is another one.
    return str(getattr(text, "_fingerprint", uuid.uuid4().hex))


def _count(results: int) -> str:
    return "1 result was" if results == 1 else f"{results} results were"
