"""Run the notebooks and store them with their outputs, without what belongs to this machine: `make notebooks`."""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"


def run(path: Path) -> None:
    """Run one notebook in its folder, and store it in place."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, store_widget_state=False, record_timing=False, resources=resources).execute()
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    text = nbformat.writes(notebook)
    # Where this checkout and its packages are; tests/nbval_sanitize.cfg leaves it out too.
    text = re.sub(r"(/[\w.+-]+)+/(site-packages/|notebooks\b)", r"\2", text)
    path.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Run all notebooks in their order, or those whose names begin with one of the arguments; not Colab's."""
    for path in sorted(FOLDER.glob("[0-9]*.ipynb")):
        if sys.argv[1:] and not path.name.startswith(tuple(sys.argv[1:])):
            continue
        print(path.name, flush=True)
        run(path)


if __name__ == "__main__":
    main()
