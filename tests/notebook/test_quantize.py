"""`%quantize`, `%%quantize` and `%qplan` on a real small model."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit import QuantizedModel, api
from qtoolkit.notebook.magic_errors import MagicError
from qtoolkit.records import Plan, QuantizationReport


def run(shell: InteractiveShell, cell: str) -> Any:
    """The value of a cell, or its error raised here."""
    result = shell.run_cell(cell, store_history=True)
    result.raise_error()
    return result.result


def test_a_line_returns_the_record_and_keeps_no_model(shell: InteractiveShell, tiny_llama: Path) -> None:
    # Beforehand: it logs an exception when it is imported, and pytest keeps the log with the frames of the job.
    import bitsandbytes  # noqa: F401

    # Held, so that their ids stay theirs: another test of this process may have left some.
    before = [item for item in gc.get_objects() if type(item) is QuantizedModel]
    report = run(shell, f"%quantize {tiny_llama} --method int8")
    assert type(report) is QuantizationReport
    assert (report.method, report.source.name, report.path) == ("int8", str(tiny_llama), None)
    gc.collect()
    known = {id(item) for item in before}
    assert not [item for item in gc.get_objects() if type(item) is QuantizedModel and id(item) not in known]


def test_into_binds_the_model_and_output_saves_it(shell: InteractiveShell, tiny_llama: Path) -> None:
    report = run(shell, f"r = %quantize {tiny_llama} --into q --output 'my output'\nr")
    quantized = shell.user_ns["q"]
    assert type(quantized) is QuantizedModel
    assert quantized.report is report is shell.user_ns["r"]
    assert report.path == str(Path("my output").absolute())
    assert Path("my output/model.safetensors").exists()


def test_a_cells_body_gives_the_config(shell: InteractiveShell, tiny_llama: Path) -> None:
    report = run(shell, f'%%quantize {tiny_llama} --into q\nmethod = "nf4"\ndouble_quant = false\nexclude = ["q_proj"]')
    assert shell.user_ns["q"].config.double_quant is False
    assert report.settings["double_quant"] is False
    assert {layer.name.rpartition(".")[2] for layer in report.skipped} >= {"q_proj"}
    assert shell.user_ns["_"] is report


@pytest.mark.parametrize(
    "cell",
    ["%qplan {model} --method int8", "%quantize {model} --method int8 --plan --into q --output out",
     '%%quantize {model} --plan\nmethod = "int8"', '%%qplan {model}\nmethod = "int8"'],
    ids=["line", "option", "cell with option", "cell"],
)  # fmt: skip
def test_a_plan_makes_nothing(shell: InteractiveShell, tiny_llama: Path, cell: str) -> None:
    plan = run(shell, cell.format(model=tiny_llama))
    assert type(plan) is Plan
    assert plan.layers == api.plan(tiny_llama, "int8").layers
    assert "q" not in shell.user_ns
    assert list(Path.cwd().iterdir()) == []


def test_a_plan_for_another_machine(shell: InteractiveShell, tiny_llama: Path) -> None:
    plan = run(shell, f"%qplan {tiny_llama} --machine t4")
    assert (plan.device, plan.verdict, plan.machine.name) == ("cuda:0", "fits", "t4")
    with pytest.raises(MagicError, match=r"^--machine must be one of cpu-12gb, .*, got 'cray'"):
        run(shell, f"%qplan {tiny_llama} --machine cray")


def test_braces_and_dollars_are_expanded_on_the_line(shell: InteractiveShell, tiny_llama: Path) -> None:
    shell.user_ns.update(folder=tiny_llama.parent, name=tiny_llama.name, kind="int8", where={"a": "cpu"})
    plan = run(shell, "%qplan {folder}/$name --method $kind --device {where['a']}")
    assert (plan.source.name, plan.method, plan.device) == (str(tiny_llama), "int8", "cpu")


def test_braces_with_blanks_need_quotes(shell: InteractiveShell, tiny_llama: Path) -> None:
    Path("a folder").symlink_to(tiny_llama)
    shell.user_ns["folder"] = "a folder"
    assert run(shell, "%qplan '{folder}'").source.name == "a folder"
    with pytest.raises(MagicError, match="put quotes around a path that has blanks"):
        run(shell, "%qplan {folder}")


@pytest.mark.parametrize("kind", [str, Path], ids=["text", "path"])
def test_the_model_may_be_a_variable(shell: InteractiveShell, tiny_llama: Path, kind: type) -> None:
    shell.user_ns["model_here"] = kind(tiny_llama)
    assert run(shell, "%qplan model_here").source.path == str(tiny_llama)


def test_the_model_may_be_a_loaded_model_in_a_variable(shell: InteractiveShell) -> None:
    from tests.sample_models import random_model

    shell.user_ns["loaded"] = random_model("llama")
    assert run(shell, "%quantize loaded --into q").source.format == "loaded"


def test_the_model_may_be_a_functions_local_variable(shell: InteractiveShell, tiny_llama: Path) -> None:
    cell = f"def plan_of(here):\n    return get_ipython().run_line_magic('qplan', 'here')\nplan_of({str(tiny_llama)!r})"
    assert run(shell, cell).source.path == str(tiny_llama)


def test_a_folder_comes_before_a_variable_of_its_name(shell: InteractiveShell, tiny_llama: Path) -> None:
    Path("here").symlink_to(tiny_llama)
    shell.user_ns["here"] = "org/another"
    assert run(shell, "%qplan here").source.name == "here"


def test_bad_input_fails_before_work_and_leaves_what_was_there(shell: InteractiveShell, tiny_llama: Path) -> None:
    Path("out").mkdir()
    Path("out/mine").touch()
    shell.user_ns["q"] = "mine"
    with pytest.raises(MagicError, match="out") as caught:
        run(shell, f"%quantize {tiny_llama} --output out --into q")
    assert caught.value.name == "OutputExistsError"
    assert shell.user_ns["q"] == "mine"
    assert list(Path("out").iterdir()) == [Path("out/mine")]


def test_overwrite_replaces_the_output(shell: InteractiveShell, tiny_llama: Path) -> None:
    run(shell, f"%quantize {tiny_llama} --output out")
    run(shell, f"%quantize {tiny_llama} --output out --overwrite --method fp4")
    assert api.load("out").report.method == "fp4"


@pytest.mark.parametrize("phase", ["quantize", "save"])
def test_stop_leaves_no_output_and_no_model(
    shell: InteractiveShell, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    from torch import nn

    from qtoolkit.notebook import progress

    # By type, not by isinstance: other packages' lazy objects warn when they are looked into.
    before = {id(item) for item in gc.get_objects() if issubclass(type(item), nn.Module)}
    half_done: list[weakref.ref[nn.Module]] = []

    def stop(self: Any, event: Any) -> None:
        if event.phase == phase and event.done * 2 > event.total:
            modules = [item for item in gc.get_objects() if issubclass(type(item), nn.Linear)]
            half_done.extend(weakref.ref(module) for module in modules if id(module) not in before)
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.NoProgress, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        run(shell, f"%quantize {tiny_llama} --output out --into q")
    gc.collect()
    assert half_done
    assert not [module for module in half_done if module() is not None]
    assert "q" not in shell.user_ns
    assert list(Path.cwd().iterdir()) == []


def test_progress_is_reported_as_chosen(
    shell: InteractiveShell, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, f"%quantize {tiny_llama} --into q")
    assert "elapsed" not in capsys.readouterr().out
    run(shell, "%config QuantizeMagics.progress = 'text'")
    run(shell, f"%quantize {tiny_llama} --output out")
    lines = [line for line in capsys.readouterr().out.splitlines() if "elapsed" in line]
    assert {line.partition(":")[0] for line in lines} >= {"save"}


def test_a_method_of_another_package_is_planned(shell: InteractiveShell, tiny_llama: Path, brought_method: str) -> None:
    plan = run(shell, f"%qplan {tiny_llama} --method {brought_method} --rounds 2")
    assert plan.method == brought_method
    assert plan.settings["rounds"] == 2
