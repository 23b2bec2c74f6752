"""Write the reference of the site, all public names with their docstrings: `python -m scripts.docs_reference FILE`.

Names are imported, since signatures and docstrings of verbs are made from their requests.
"""

import argparse
import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import qtoolkit

# A section of a docstring, and an entry of it with the lines that go on below.
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example):\n((?:(?: {4}.*)?\n?)+)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}([\w*][\w, *]*): ", re.MULTILINE)
TITLES = {"Verbs": "functions", "Configs": "configs", "Values and errors": "classes"}


def reference() -> str:
    """Return the page in Markdown: verbs, the configs of methods, and other classes."""
    lines = ["# Reference", "", "`import qtoolkit as qt`: all of its public names, from the code.", ""]
    public = {name: getattr(qtoolkit, name) for name in qtoolkit.__all__}
    for title, wanted in TITLES.items():
        lines += [f"## {title}", ""]
        lines += [described(name, value) for name, value in public.items() if kind_of(value) == wanted]
    return "\n".join(lines)


def kind_of(value: Any) -> str:
    """Return "functions", "configs" or "classes"."""
    if not inspect.isclass(value):
        return "functions"
    return "configs" if is_dataclass(value) and hasattr(value, "method") else "classes"


def described(name: str, value: Any) -> str:
    """Return a name's heading, signature and docstring; of a config, its options too."""
    lines = [f"### qt.{name}", ""]
    if kind_of(value) == "functions":
        lines += ["```text", signature(name, value), "```", ""]
    lines += [with_sections(inspect.getdoc(value) or ""), ""]
    if kind_of(value) == "configs":
        lines += ["| option | default | what it is |", "|---|---|---|", *map(option_row, fields(value)), ""]
    return "\n".join(lines)


def signature(name: str, function: Any) -> str:
    """Return a call, an argument a line, without types, which the arguments' texts tell."""
    arguments = inspect.signature(function).parameters.values()
    shown = [str(one.replace(annotation=inspect.Parameter.empty)) for one in arguments]
    keywords = next((at for at, one in enumerate(arguments) if one.kind is one.KEYWORD_ONLY), len(shown))
    shown[keywords:keywords] = ["*"] if keywords < len(shown) else []
    return f"qt.{name}({', '.join(shown)})" if len(shown) < 3 else f"qt.{name}(\n    " + ",\n    ".join(shown) + ",\n)"


def with_sections(docstring: str) -> str:
    r"""Return a docstring of Google's style as Markdown: a section is a line in bold and a list.

    Example:
        >>> with_sections("Load it.\n\nArgs:\n    model: a folder,\n        or a file.\n")
        'Load it.\n\n**Args**\n\n- `model`: a folder, or a file.\n\n'
    """

    def section(match: re.Match[str]) -> str:
        title, body = match.groups()
        if title == "Example":
            return f"**{title}**\n\n```pycon\n{inspect.cleandoc(body)}\n```\n"
        if title == "Returns":
            return f"**{title}**\n\n{joined(body)}\n\n"
        # re.split gives the text before the first entry, then name and text by turns.
        parts = ENTRY.split(body)[1:]
        entries = (f"- `{entry}`: {joined(text)}" for entry, text in zip(parts[::2], parts[1::2], strict=True))
        return f"**{title}**\n\n" + "\n".join(entries) + "\n\n"

    return SECTION.sub(section, docstring)


def joined(text: str) -> str:
    """Return a text in one line."""
    return " ".join(text.split())


def option_row(option: Any) -> str:
    """Return a line of the table of a config's options."""
    said = option.metadata
    choices = f" ({', '.join(f'`{choice!r}`' for choice in said['choices'])})" if said.get("choices") else ""
    cells = (f"`{option.name}`", f"`{option.default!r}`", f"{said.get('help', '')}{choices}")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
