"""The panels together, without a browser: choose, plan, quantize, compare; each field tells what is wrong with it."""

import threading
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

import qtoolkit as qt
import qtoolkit.api
from qtoolkit.api import find_models
from qtoolkit.errors import ConfigError
from qtoolkit.notebook.panels import Panel
from qtoolkit.notebook.panels.field import MARKED, Field
from qtoolkit.notebook.panels.panel import PANELS
from qtoolkit.records import Comparison, ProgressEvent, QuantizationReport
from tests.fake_hub.fixture import hub
from tests.fake_hub.server import Fault, Hub
from tests.models.gguf_models import write_gguf
from tests.records.test_comparison import COMPARISON

__all__ = ["hub"]
Open = Callable[..., Panel]


def planned(panel: Panel) -> None:
    """Wait for the plan of what is chosen now."""
    panel.plan.lookup.wait()
    assert panel.choice.plan is not None, panel.plan.verdict.value


def test_a_model_is_chosen_planned_quantized_and_its_folder_handed_on(
    open_panel: Open, shell: InteractiveShell, tiny_llama: Path
) -> None:
    panel = open_panel()
    panel.model.search.value = str(tiny_llama)
    panel.model.lookup.wait()
    assert panel.choice.model == str(tiny_llama) == panel.plan.model.value == panel.quantize.model.value
    assert "LlamaForCausalLM" in panel.model.details.value and "FoundModel" not in panel.model.details.value
    panel.plan.methods.form.method.value = "absmax"
    planned(panel)
    assert "fits" in panel.plan.verdict.value and "All of the plan" in panel.plan.verdict.value
    assert panel.quantize.output.value == "output/tiny-llama-absmax"
    panel.quantize.into.value = "q"
    panel.quantize.runner.actions["Quantize"].press()
    panel.worker.wait(120)
    report = panel.results.records["quantize"]
    assert isinstance(report, QuantizationReport), report
    assert shell.user_ns.pop("q").report == report
    assert report.memory.footprint_after == panel.choice.plan.footprint_after
    assert panel.publish.folder.value == "output/tiny-llama-absmax"
    assert "The folder loads in transformers" in panel.quantize.saved.value and "Ollama" in panel.quantize.saved.value
    assert qt.load("output/tiny-llama-absmax").report.method == "absmax"


def test_it_opens_with_a_model_and_shows_its_plan(open_panel: Open, tiny_llama: Path) -> None:
    panel = open_panel(tiny_llama)
    planned(panel)
    assert f"qt.plan(&#x27;{tiny_llama}&#x27;, qt.NF4())" in panel.plan.call.value
    assert panel.choice.plan.method == "nf4"
    assert "free here now" in panel.plan.verdict.value and "this machine has" not in panel.plan.verdict.value
    assert "loads in transformers, SGLang, by their sources; not in vLLM, mlx-lm" in panel.plan.verdict.value


def test_a_plan_follows_what_is_typed(open_panel: Open, tiny_llama: Path) -> None:
    panel = open_panel(tiny_llama, only="plan")
    form = panel.plan.methods.form
    form.method.value = "zero_point"
    sizes = {}
    for bits in (8, 4):
        form.options["bits"].value = bits
        planned(panel)
        sizes[bits] = panel.choice.plan.footprint_after
    assert sizes[4] < sizes[8]
    # Of another machine, nothing is predicted for a job here.
    panel.plan.machine.value = "t4"
    panel.plan.lookup.wait()
    assert "t4 has" in panel.plan.verdict.value and panel.choice.plan is None
    assert panel.plan.machine.problem == ""
    panel.plan.model.value = str(tiny_llama / "nowhere")
    panel.plan.lookup.wait()
    assert "nowhere" in panel.plan.model.problem


def test_a_comparison_stays(open_panel: Open, tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and looked at the moon " * 200)
    panel = open_panel(tiny_llama, only="compare")
    compare = panel.compare
    compare.text.value, compare.num_tokens.value = str(text), "512"
    compare.forms.value, compare.prompts.value = ("full precision", "absmax"), "the cat\n\nsat"
    call = "qt.compare(%r, [None, 'absmax'], text=%r, num_tokens=512, prompts=['the cat', 'sat'])"
    compare.runner.actions["Compare"].press()
    panel.worker.wait(120)
    comparison = panel.results.records["compare"]
    assert isinstance(comparison, Comparison), comparison
    assert comparison.prompts == ("the cat", "sat")
    assert call % (str(tiny_llama), str(text)) in panel.results._bundle()["text/plain"]
    assert '<img alt="KL divergence against size"' in panel.results._bundle()["text/html"]
    for line in comparison.overview().lines:
        assert all(cell in compare.table.value for cell in line)
    assert "the panel Quantize saves AbsMax() to a folder" in compare.table.value
    assert compare.next_steps.box.layout.display == "none"


@pytest.mark.parametrize(("folder", "display"), [("middle", None), ("small", "none")], ids=["lost least", "lost more"])
def test_the_folder_that_lost_least_is_gone_on_with(open_panel: Open, folder: str, display: str | None) -> None:
    panel = open_panel()
    panel.compare._keep(folder, COMPARISON)
    assert panel.compare.next_steps.box.layout.display == display
    assert ("the panel Quantize saves middle" in panel.compare.table.value) == (display == "none")
    panel.compare.next_steps.buttons["publish"].press()
    assert panel.publish.folder.value == ("" if display else folder)


WRONG: dict[str, tuple[str, str, Any, str]] = {
    "no model": ("quantize", "model", "", "Model is empty: give a Hub id or a folder"),
    "no place": ("quantize", "output", "", "Save to is empty: give a folder, or a variable to keep it as"),
    "no variable": ("quantize", "into", "not one", "Keep as must be a variable's name, got 'not one'"),
    "a keyword": ("quantize", "into", "class", "Keep as must be a variable's name, got 'class'"),
    "no number": ("compare", "num_tokens", "many", "Tokens must be a whole number of at least 1, got 'many'"),
    "too few": ("compare", "num_tokens", "0", "Tokens must be a whole number of at least 1, got '0'"),
    "no form": ("compare", "forms", (), "To compare needs at least one"),
    "too many": (
        "compare",
        "num_tokens",
        "9" * 20,
        "Tokens must be a whole number of at least 1, got '" + "9" * 20 + "'",
    ),
    "no size": ("compare", "memory", "lots", "'lots' is no size: write it as 8 GB, 500 MB or 1.5 GiB"),
    "no text": ("compare", "text", " ", "Text is empty: give a text"),
    "no folder": ("publish", "folder", "", "Folder is empty: give a folder with a saved model"),
    "no name": ("publish", "repo_id", "a b", "'a b' is no name of a Hub repository: write it as org/name"),
    "no repository": ("publish", "repo_id", "", "Repository is empty: give org/name"),
}
BUTTONS = {"quantize": "Quantize", "compare": "Compare", "publish": "Publish"}


@pytest.mark.parametrize(("name", "field", "value", "problem"), WRONG.values(), ids=WRONG)
def test_a_field_that_is_wrong_says_so_and_nothing_starts(
    open_panel: Open, tiny_llama: Path, name: str, field: str, value: Any, problem: str
) -> None:
    panel = open_panel(tiny_llama, only=name)
    part = getattr(panel, name)
    if name == "publish":
        part.folder.value, part.repo_id.value = "folder", "me/x"
    getattr(part, field).value = value
    button = part.runner.actions[BUTTONS[name]]
    button.press()
    # Told once, beside the field.
    assert getattr(part, field).problem == problem and button.problem == MARKED
    assert not panel.worker.running and panel.results.records == {}
    assert not button.control.disabled


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "no such model": ("quantize", {"model": "./nowhere"}, "model", "nowhere"),
    "a folder that exists": ("quantize", {"output": "taken"}, "output", "exists"),
    "no GPU": ("quantize", {"methods.device": "cuda"}, "methods.device", "Device must be one of auto, cpu on"),
    "no such text": ("compare", {"text": "nowhere.txt"}, "text", "a file that exists (.txt"),
    "too few tokens": ("compare", {"text": "self", "num_tokens": "2"}, "num_tokens", "Tokens must be at least"),
    "no such folder": ("publish", {"folder": "nowhere"}, "folder", "name a folder with a saved model"),
    "not saved by qtoolkit": ("publish", {}, "folder", "qt.verify tells what its files alone prove"),
}


@pytest.mark.parametrize(("name", "values", "field", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_a_job_refuses_is_told_beside_its_field_until_that_changes(
    open_panel: Open, tiny_llama: Path, name: str, values: dict[str, Any], field: str, problem: str
) -> None:
    Path("taken").mkdir()
    Path("taken/file").touch()
    panel = open_panel(tiny_llama, only=name)
    part = getattr(panel, name)
    if name == "publish":
        part.folder.value, part.repo_id.value = str(tiny_llama), "me/x"
    for path, value in values.items():
        attrgetter(path)(part).value = value
    part.runner.actions[BUTTONS[name]].press()
    panel.worker.wait(60)
    found = attrgetter(field)(part)
    assert problem in found.problem
    assert f"not started: “{found.control.description}” is marked above" in part.runner.view.status.value
    assert panel.results.records == {}
    found.value = "cpu" if field == "methods.device" else "512"
    assert found.problem == "" and "marked above" not in part.runner.view.status.value


@pytest.mark.parametrize("only", [None, *PANELS])
def test_each_can_be_opened_alone(open_panel: Open, only: str | None) -> None:
    panel = open_panel(only=only)
    assert [name for name in PANELS if getattr(panel, name) is not None] == ([only] if only else list(PANELS))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {"only": "load"}, "only must be one of model, plan, quantize, compare, convert, publish, got 'load'"),
        ((3,), {}, "a panel takes a Hub id, a folder or a .gguf file, got int: give its name"),
    ],
    ids=["no such panel", "no name"],
)
def test_what_cannot_be_opened_is_refused(arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        qt.panel(*arguments, **options)


def test_of_a_repository_of_gguf_files_one_is_chosen(open_panel: Open, hub: Hub, tmp_path: Path) -> None:
    for seed, kind in enumerate(("Q4_0", "Q8_0")):
        write_gguf(tmp_path / f"tiny-{kind}.gguf", seed)
    hub.add("org/tiny", tmp_path)
    panel = open_panel()
    panel.model.search.value = "tiny"
    panel.model.lookup.wait()
    panel.model.found.value = "org/tiny"
    panel.model.lookup.wait()
    assert [value for _, value in panel.model.found.control.options] == ["", "org/tiny:Q4_0", "org/tiny:Q8_0"]
    assert panel.choice.model == ""
    panel.model.found.value = "org/tiny:Q8_0"
    assert panel.choice.model == "org/tiny:Q8_0"


def test_a_hub_that_hangs_holds_nothing_up(open_panel: Open, hub: Hub) -> None:
    hub.faults.append(Fault("/api/models", pause=30))
    panel = open_panel("org/model")
    panel.model.search.value = "llama"
    panel.plan.model.value = "org/other"
    assert panel.choice.model == "org/other"
    panel.plan.methods.form.method.value = "int8"
    assert "qt.plan(&#x27;org/other&#x27;, qt.Int8())" in panel.plan.call.value
    # The questions are still open: the Hub has answered none of them.
    assert any(thread.name == "qtoolkit-lookup" for thread in threading.enumerate())
    hub.closing.set()
    # A question that outlives its Hub would ask that of a later test.
    for thread in threading.enumerate():
        if thread.name == "qtoolkit-lookup":
            thread.join(timeout=60)


def test_an_answer_that_comes_late_does_not_undo_a_choice(open_panel: Open, tiny_llama: Path) -> None:
    panel = open_panel(tiny_llama)
    panel.model.lookup.wait()
    answer = (find_models(str(tiny_llama), hub=False), panel.choice.model)
    panel.plan.model.value = "org/other"
    panel.model._show(answer)
    assert panel.choice.model == "org/other"


def test_as_it_opens_nothing_is_called_wrong(open_panel: Open) -> None:
    panel = open_panel()
    parts = (panel.model, panel.plan, panel.quantize, panel.compare, panel.publish)
    fields = [field for part in parts for field in vars(part).values() if isinstance(field, Field)]
    assert len(fields) > 20 and not [field.problem for field in fields if field.problem]


def test_a_panel_that_is_opened_again_cancels_the_job_of_the_one_before(
    open_panel: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(model: str, config: Any, on_progress: Any, **options: Any) -> None:
        while True:
            on_progress(ProgressEvent("quantize", 1, 2, "layers"))

    monkeypatch.setattr(qtoolkit.api, "quantize", waits)
    first, second = (open_panel("org/model", only="quantize") for _ in range(2))
    first.quantize.runner.actions["Quantize"].press()
    second.quantize.runner.actions["Quantize"].press()
    assert second.quantize.runner.actions["Quantize"].problem == "a job is running: wait until it ends, or cancel it"
    second.quantize.runner.actions["Cancel"].press()
    first.worker.wait(30)
    assert "cancelled after" in first.quantize.runner.view.status.value
    # What the second said of a running job is no longer so.
    assert second.quantize.runner.actions["Quantize"].problem == ""


def test_the_model_is_kept_under_the_name_of_the_call(
    open_panel: Open, shell: InteractiveShell, tiny_llama: Path
) -> None:
    panel = open_panel(tiny_llama, only="quantize")
    panel.quantize.methods.form.method.value = "absmax"
    panel.quantize.output.value, panel.quantize.into.value = "", "q"
    panel.quantize.runner.actions["Quantize"].press()
    panel.quantize.into.value = "not one"
    panel.worker.wait(120)
    assert shell.user_ns.pop("q").report.method == "absmax"
    assert "not one" not in shell.user_ns


def test_callbacks_may_come_from_another_thread(open_panel: Open, tiny_llama: Path) -> None:
    panel = open_panel(tiny_llama)

    def by_hand() -> None:
        panel.plan.methods.form.method.value = "absmax"
        panel.quantize.output.value = "out"
        panel.quantize.runner.actions["Quantize"].control.click()

    thread = threading.Thread(target=by_hand)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    panel.worker.wait(120)
    assert isinstance(panel.results.records["quantize"], QuantizationReport)


def test_closed_it_leaves_no_widget(open_panel: Open, shell: InteractiveShell) -> None:
    from tests.notebook.test_progress import live_widgets

    before = live_widgets()
    panel = open_panel()
    panel.model.lookup.wait()
    # The fields of the method before are gone with it.
    form = panel.plan.methods.form
    counts = set()
    for method in ("gptq", "nf4", "gptq", "nf4"):
        form.method.value = method
        counts.add((method, len(live_widgets())))
    assert len(counts) == 2
    panel.close()
    assert live_widgets() == before
