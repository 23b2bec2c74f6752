"""Hold the words that completion offers at one place, and find files among them."""

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MODEL_FILES = (".gguf",)
TEXT_FILES = (".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz", ".gguf", ".gguf_file")
_MOST_FILES = 200


@dataclass(frozen=True)
class Offered:
    """The words that may stand at the cursor.

    Attributes:
        fragment: what is typed of the word, up to the cursor.
        words: whole words, the likeliest first.
        kind: what a front-end calls them: "option", "model", "value".
    """

    fragment: str
    words: Sequence[str]
    kind: str = "value"

    def fitting(self) -> list[str]:
        """Return the words that begin with the fragment, or else those that have it inside."""
        typed = self.fragment.lower()
        fitting = [word for word in self.words if word.lower().startswith(typed)]
        return fitting or [word for word in self.words if typed.lstrip("-") in word.lower()]


def path_words(fragment: str, suffixes: Iterable[str] = ()) -> list[str]:
    """Return what `paths` does, each as it is written on a line: with a blank in it, between quotes."""
    return [shlex.quote(path) if " " in path else path for path in paths(fragment, suffixes)]


def paths(fragment: str, suffixes: Iterable[str] = ()) -> list[str]:
    """Return the folders that a path may go on with, and the files with one of these suffixes.

    Args:
        fragment: the path so far; relative ones begin at the working folder.
        suffixes: ".gguf"; none for folders alone.
    """
    parent, _, name = fragment.rpartition("/")
    folder = Path(parent or ("/" if fragment.startswith("/") else ".")).expanduser()
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError:
        return []
    prefix = f"{parent}/" if "/" in fragment else ""
    wanted = tuple(suffixes)
    shown = [
        prefix + entry + ("/" if is_folder else "")
        for entry, is_folder in found
        if (is_folder or (wanted and entry.endswith(wanted))) and entry.startswith(".") == name.startswith(".")
    ]
    return shown[:_MOST_FILES]
