"""What the panel Quantize offers once something was quantized: answers before and after, and the panels that go on."""

import re
import zipfile
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from transformers import AutoModelForCausalLM, AutoTokenizer

import qtoolkit as qt
from qtoolkit.errors import InsufficientMemoryError, UnsupportedModelError
from qtoolkit.jobs import answering
from qtoolkit.notebook.panels import Panel
from qtoolkit.records import Answers, Archive
from qtoolkit.requests import LoadRequest
from tests.notebook.panels.conftest import told

Open = Callable[..., Panel]
PROMPT = "the cat sat"


def quantized(panel: Panel, *, method: str = "absmax", output: str = "output/small", into: str = "") -> Panel:
    """Press Quantize, and wait."""
    panel.quantize.methods.form.method.value = method
    panel.quantize.output.value, panel.quantize.into.value = output, into
    panel.quantize.runner.actions["Quantize"].press()
    panel.worker.wait(120)
    assert re.search(r"done in .*times smaller; 14 of \d+ modules quantized; .*saved", told(panel.quantize))
    return panel


def asked(panel: Panel) -> Answers | str:
    """Press Try it, and wait."""
    panel.quantize.try_it.prompt.value = PROMPT
    panel.quantize.try_it.button.press()
    panel.worker.wait(120)
    return panel.results.records["try"]


def answer(folder: Path) -> str:
    """What transformers' own generate writes with the model in this folder."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)
    return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)


def test_nothing_is_offered_before(open_panel: Open, tiny_llama: Path) -> None:
    panel = open_panel(tiny_llama)
    assert panel.quantize.afterwards.layout.display == "none"


def test_both_models_answer_as_transformers_lets_them(open_panel: Open, tiny_llama: Path) -> None:
    panel = quantized(open_panel(tiny_llama))
    answers = asked(panel)
    assert isinstance(answers, Answers), answers
    assert (answers.before, answers.after) == (answer(tiny_llama), answer(Path("output/small")))
    # Where they were asked for, as text, with the report's first sentence in place of a report out of sight.
    assert (
        f"<b>quantized, after</b><div><i>{PROMPT}</i>{escape(answers.after)}</div>"
        in panel.quantize.try_it.answers.value
    )
    assert answers.headline() in told(panel.quantize)
    # The status tells of the answers now.
    assert re.search("times smaller, saved to output/small<", panel.quantize.saved.value)
    call = f"qt.load('output/small').generate('{PROMPT}')"
    assert call in panel.results._bundle()["text/plain"]


def test_a_model_kept_as_a_variable_is_asked(open_panel: Open, shell: InteractiveShell, tiny_llama: Path) -> None:
    panel = quantized(open_panel(tiny_llama), output="", into="q")
    answers = asked(panel)
    assert isinstance(answers, Answers) and answers.after == shell.user_ns["q"].generate(PROMPT)
    assert re.search("times smaller, kept as q<", panel.quantize.saved.value)
    assert panel.quantize.of_saved.layout.display == "none" and panel.quantize.afterwards.layout.display is None
    shell.user_ns["q"] = 7
    asked(panel)
    assert "the variable q is no longer the quantized model: quantize it again" in told(panel.quantize)
    # What a refused job did not make is not told as made.
    panel.quantize.into.value = "7"
    panel.quantize.runner.actions["Quantize"].press()
    assert (
        "Made before, and still there: " in panel.quantize.saved.value and "qtk-made" not in panel.quantize.saved.value
    )


def test_where_the_original_does_not_fit_the_quantized_model_answers(
    open_panel: Open, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = quantized(open_panel(tiny_llama))
    load = answering.run_loading

    def too_large(request: LoadRequest) -> object:
        if str(request.model) == str(tiny_llama):
            raise InsufficientMemoryError("it takes 14 GB")
        return load(request)

    monkeypatch.setattr(answering, "run_loading", too_large)
    answers = asked(panel)
    assert isinstance(answers, Answers) and answers.before == "not asked: it takes 14 GB" and answers.after


def test_a_step_turns_to_its_panel_with_the_folder(open_panel: Open, tiny_llama: Path) -> None:
    panel = quantized(open_panel(tiny_llama))
    tabs = panel.box.children[2]
    steps = panel.quantize.next_steps
    assert "qt.repair(" in unescape(panel.quantize.repair.value)
    assert panel.quantize.of_saved.layout.display is None and list(steps.buttons) == ["compare", "publish", "convert"]
    for name, button in steps.buttons.items():
        button.press()
        assert tabs.children[tabs.selected_index] is getattr(panel, name).box
    assert panel.compare.forms.value == ("full precision", "output/small")
    assert panel.convert.source.value == panel.publish.folder.value == "output/small"
    # Another panel has saved something since: the steps are those of what stands above them.
    panel.choice.folder = "output/converted"
    steps.buttons["publish"].press()
    assert panel.publish.folder.value == panel.choice.folder == "output/small"
    # Whoever chose other forms keeps them.
    panel.compare.forms.value = ("nf4",)
    steps.buttons["compare"].press()
    assert panel.compare.forms.value == ("nf4",)


def test_a_step_that_would_be_refused_is_not_offered(open_panel: Open, tiny_llama: Path) -> None:
    steps = quantized(open_panel(tiny_llama), method="int8").quantize.next_steps
    seen = {name for name, button in steps.buttons.items() if button.box.layout.display != "none"}
    assert seen == {"compare", "publish"}
    with pytest.raises(UnsupportedModelError, match="whose codes no other format holds"):
        qt.convert("output/small", "gptq", "output/other")


def test_a_panel_alone_names_no_panel_that_is_not_there(open_panel: Open, tiny_llama: Path) -> None:
    assert open_panel(tiny_llama, only="quantize").quantize.next_steps.buttons == {}


def test_what_was_saved_is_put_into_one_file(open_panel: Open, tiny_llama: Path, tmp_path: Path) -> None:
    panel = quantized(open_panel(tiny_llama), output="output/zipped")
    panel.quantize.zip_it.button.press()
    panel.worker.wait(60)
    with zipfile.ZipFile("output/zipped.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    folder = Path("output/zipped")
    names = sorted(file.name for file in folder.iterdir())
    assert sorted(file.name for file in (tmp_path / "zipped").iterdir()) == names
    assert all((tmp_path / "zipped" / name).read_bytes() == (folder / name).read_bytes() for name in names)
    assert isinstance(panel.results.records["zip"], Archive)
    # Again: what lies there is somebody's.
    panel.quantize.zip_it.button.press()
    panel.worker.wait(60)
    assert "output/zipped.zip exists: download it, or remove or rename it first" in told(panel.quantize)
