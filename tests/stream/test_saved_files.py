"""A folder that loses files while it is saved is no success."""

import shutil
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.errors import OutputError
from qtoolkit.records import ProgressEvent
from qtoolkit.stream.staging import staged
from qtoolkit.stream.writing import save_model
from tests.sample_models import random_model


@pytest.mark.parametrize(
    "what", ["config.json", "generation_config.json", "model.safetensors", "all files", "the folder", "all of it"]
)
def test_a_model_that_loses_a_file_while_it_is_saved_fails(tmp_path: Path, what: str) -> None:
    model, output = random_model("llama"), tmp_path / "out"

    def remove(event: ProgressEvent) -> None:
        """While the weights are written: config and generation config are there, the tokenizer is not."""
        folder = output.with_name("out.partial") / "model"
        if event.done < event.total:
            return
        if what == "all of it":
            shutil.rmtree(folder.parent)
        elif what == "the folder":
            shutil.rmtree(folder)
        else:
            for file in folder.iterdir():
                if what in ("all files", file.name):
                    file.unlink()

    with (
        pytest.raises(
            OutputError, match=r"(lost .* while it was saved: leave it alone, and call that again|cannot be)"
        ),
        staged(output) as folder,
    ):
        save_model(model, None, folder, remove)
    assert not output.exists()


def test_a_tokenizer_that_makes_the_folder_again_does_not_hide_it(tiny_llama: Path, tmp_path: Path) -> None:
    """As transformers does: it makes the folder where it is missing, and writes into it."""
    output = tmp_path / "out"

    def remove(event: ProgressEvent) -> None:
        if event.phase == "save" and event.done == event.total:
            shutil.rmtree(output.with_name("out.partial"))

    with pytest.raises(OutputError, match="leave it alone, and call that again"):
        qt.quantize(tiny_llama, "absmax", device="cpu", output=output, on_progress=remove)
    assert not output.exists()
