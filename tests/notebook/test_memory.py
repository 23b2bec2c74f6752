"""`%qmemory`, `%%qmemory` and `%qdoctor`."""

import re
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit.notebook.magic_errors import MagicError
from qtoolkit.records import Doctor, MemoryReport, PeakMemory


@pytest.fixture
def linear(shell: InteractiveShell) -> Any:
    """A module of 64 * 32 weights in float32, as the variable `linear` and inside the list `models`."""
    from torch import nn

    module = nn.Linear(64, 32, bias=False)
    shell.user_ns.update(linear=module, models=[module])
    return module


@pytest.mark.parametrize("line", ["linear", "models[0]", " linear.to('cpu') "])
def test_memory_of_a_variable_or_an_expression(shell: InteractiveShell, linear: Any, line: str) -> None:
    report = shell.run_line_magic("qmemory", line)
    assert type(report) is MemoryReport
    assert report.footprint_after == 64 * 32 * 4


def test_memory_of_a_functions_local_variable(shell: InteractiveShell, linear: Any) -> None:
    cell = "def measured(inner):\n    return get_ipython().run_line_magic('qmemory', 'inner')\nmeasured(linear)"
    assert shell.run_cell(cell).result.footprint_after == 64 * 32 * 4


def test_memory_of_what_is_no_model_is_refused(shell: InteractiveShell) -> None:
    with pytest.raises(MagicError, match="memory is measured of a model, got int"):
        shell.run_line_magic("qmemory", "1")


def test_the_peak_of_a_cell(shell: InteractiveShell) -> None:
    result = shell.run_cell(
        "%%qmemory\nimport mmap, time\n"
        # From the system and not from the heap, where a process with many tests behind it has room that counts already;
        # and much more than what such a process may give back in the meantime.
        "held = mmap.mmap(-1, 500_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "held[::4096] = b'1' * len(held[::4096])\n"
        # Long enough for a sample, which is what counts where this process was larger before.
        "time.sleep(0.3)\nheld.close()\ndel held"
    )
    assert type(result.result) is PeakMemory
    assert result.result.peak_rss - result.result.rss_before >= 250_000_000
    assert "held" not in shell.user_ns


@pytest.mark.parametrize(
    ("body", "shown"),
    [("x = 41\nx + 1", True), ("x = 41\nx + 1;", False), ("x = 41", False)],
    ids=["expression", "silenced", "statement"],
)
def test_a_measured_cell_shows_its_last_expression(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], body: str, *, shown: bool
) -> None:
    result = shell.run_cell(f"%%qmemory\n{body}")
    assert type(result.result) is PeakMemory
    assert shell.user_ns["x"] == 41
    out = capsys.readouterr().out
    assert ("42" in out.split("PeakMemory")[0]) is shown
    assert "PeakMemory" in out


def test_magics_work_in_a_measured_cell(shell: InteractiveShell) -> None:
    shell.run_cell("%%qmemory\nfound = %env PATH\n").raise_error()
    assert shell.user_ns["found"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("1 / 0", ZeroDivisionError),
        ("def half(:", SyntaxError),
        ("%quantize", MagicError),
        ("raise SystemExit", SystemExit),
    ],
)
@pytest.mark.filterwarnings("ignore:To exit")
def test_the_cells_own_errors_stay_errors(shell: InteractiveShell, body: str, error: type[BaseException]) -> None:
    result = shell.run_cell(f"%%qmemory\n{body}")
    assert type(result.error_in_exec) is error


def test_a_traceback_shows_the_line_of_the_measured_cell(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell("%%qmemory\nx = 1\nx.no_such_attribute")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "----> 2 x.no_such_attribute" in plain


def test_doctor_tells_of_this_machine(shell: InteractiveShell) -> None:
    import torch

    report = shell.run_line_magic("qdoctor", "")
    assert type(report) is Doctor
    assert report.versions["torch"] == torch.__version__
