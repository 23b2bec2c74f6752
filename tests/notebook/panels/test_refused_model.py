"""A folder that cannot be used is told in the same words on a line of a notebook and in the panel."""

from collections.abc import Callable
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit.notebook.magic_errors import MagicError
from qtoolkit.notebook.panels import Panel
from tests.models.test_codes import FORMATS, change
from tests.models.test_lfs_pointers import POINTER
from tests.sample_models import random_model

TOLD = {"pointer": "is a Git LFS pointer, not the file itself: run `git lfs pull`", "codes": "codes belongs to AQLM"}


@pytest.mark.parametrize("kind", TOLD)
def test_it_is_told_alike(shell: InteractiveShell, open_panel: Callable[..., Panel], tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    random_model("llama").save_pretrained(folder)
    if kind == "codes":
        change(folder, FORMATS["AQLM"][0])
    else:
        (folder / "generation_config.json").write_bytes(POINTER)
    for line in ("%qplan", "%quantize"):
        with pytest.raises(MagicError) as caught:
            shell.run_cell(f"{line} {folder} --method absmax").raise_error()
        assert TOLD[kind] in str(caught.value)
    panel = open_panel(folder)
    panel.plan.lookup.wait()
    assert panel.choice.plan is None
    assert TOLD[kind] in panel.plan.model.problem
