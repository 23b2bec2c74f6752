"""Cache the results of a comparison, a file each, as soon as they are measured: the same call goes on with them."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qtoolkit.errors import OutputError, oneline
from qtoolkit.files import make_folder, path_of, user_cache, write_whole
from qtoolkit.jobs.candidates import Candidate, Task
from qtoolkit.methods import MethodConfig
from qtoolkit.records import Compared
from qtoolkit.texts.calibration_sources import calibration_fingerprint
from qtoolkit.version import __version__


class ResultCache:
    """Cache results in a folder, each under a hash of all that it depends on.

    Args:
        folder: the folder; None for one in the user's cache.

    Attributes:
        hits: results of earlier calls that were read.
        damaged: files that could not be read.
        write_error: why a result could not be written; empty if all were.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._folder = user_cache() / "comparisons" if folder is None else path_of(folder, "output")
        self.hits = 0
        self.damaged = 0
        self.write_error = ""
        try:
            make_folder(self._folder)
        except OSError as error:
            what = f"results cannot be kept in {self._folder} ({error.strerror or oneline(error)})"
            raise OutputError(f"{what}: name another folder as output=") from error

    def read(self, keys: Mapping[str, str]) -> dict[str, Compared]:
        """Return the cached results by label, for keys by label."""
        results = {}
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
                results[label] = replace(result, label=label)
        self.hits = len(results)
        return results

    def write(self, key: str, result: Compared) -> None:
        """Write a result that was measured; the comparison goes on if that fails, with a note."""
        if result.error:
            return
        try:
            write_whole(self._folder / f"{key}.json", json.dumps(result.to_dict(), indent=2).encode())
        except OSError as error:
            self.write_error = error.strerror or oneline(error)

    def notes(self) -> tuple[str, ...]:
        """Return what a reader of the comparison has to know of the cache, one line each."""
        notes = []
        if self.hits:
            notes.append(f"{_count(self.hits)} kept by an earlier call: resume=False measures anew")
        if self.damaged:
            notes.append(f"{_count(self.damaged)} kept by an earlier call, could not be read, and measured again")
        if self.write_error:
            notes.append(f"not all results could be kept ({self.write_error})")
        return tuple(notes)


def key_of(candidate: Candidate, weights: str, task: Task) -> str:
    """Return the SHA-256 of all that a result depends on.

    Args:
        candidate: what is measured.
        weights: fingerprint of its own files, as `check_candidate` returns it.
        task: what it is measured on.
    """
    config = candidate.config
    values = {
        "model": task.identity,
        "config": [config.method, _fingerprints(config)] if config else None,
        "weights": weights,
        "text": task.windows.fingerprint,
        "first": task.windows.first,
        "prompts": task.prompts,
        "device": task.device,
        "noise_floor": task.noise_floor,
        "qtoolkit": __version__,
        # Results with speed have the key of those that were kept before it could be left out.
        **({} if task.speed else {"speed": False}),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _fingerprints(config: MethodConfig) -> dict[str, Any]:
    """Return the fields of a config, with fingerprints of its text and files instead of their names."""
    values = config.to_file()
    for name in config.files():
        if values.get(name) is not None:
            values[name] = calibration_fingerprint(values[name])
    if "calibration" in values:
        values["calibration"] = calibration_fingerprint(vars(config)["calibration"])
    return values


def _count(results: int) -> str:
    return "1 result was" if results == 1 else f"{results} results were"
