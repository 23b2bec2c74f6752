"""Errors of a magic: the cell fails with one line, and nothing of a stopped job stays in memory."""

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class

from qtoolkit.errors import ConfigError, ModelNotFoundError, UnknownMethodError
from qtoolkit.notebook.magic_errors import MagicError, short_errors


class Big:
    """Stands for a model half done."""


@magics_class
class Failing(Magics):
    """`%fail` works on something big and fails."""

    error: Any
    seen: weakref.ref[Big]

    @line_magic
    @short_errors
    def fail(self, line: str) -> None:
        """Fail with `error`, while frames below hold something big."""
        big = Big()
        self.seen = weakref.ref(big)
        try:
            self._work(big)
        except OSError as error:
            raise ConfigError("the second") from error

    def _work(self, big: Big) -> None:
        half_done = [big]
        half_done.append(half_done)  # type: ignore[arg-type]
        raise self.error


@pytest.fixture
def failing(shell: InteractiveShell) -> Callable[[BaseException, str], Failing]:
    """Run `%fail` with an error in a cell; the magics come back."""

    def run(error: BaseException, line: str) -> Failing:
        magics = Failing(shell)
        magics.error = error
        shell.register_magics(magics)
        shell.run_cell(line)
        magics.error = None
        return magics

    return run


@pytest.mark.parametrize(
    ("cell", "line", "cause"),
    [
        (
            "%quantize m --method nf5",
            "UnknownMethodError: no method 'nf5': did you mean nf4? the methods are",
            UnknownMethodError,
        ),
        ("%quantize m --bits 4", "ConfigError: method 'nf4' has no option --bits", ConfigError),
        ("%qplan", "ConfigError: %qplan needs MODEL: `%qplan MODEL`; `%qplan?` tells", ConfigError),
        ("%%quantize m\nbits: 4", "ConfigError: the cell's body cannot be read as TOML", ConfigError),
        (
            "x = %quantize m --compute-dtype int3",
            "ConfigError: NF4: --compute-dtype must be one of",
            ConfigError,
        ),
        ("%qmemory nothing_here", "ConfigError: %qmemory: 'nothing_here' is no variable or expression", ConfigError),
        ("%qmemory", "ConfigError: %qmemory needs a variable", ConfigError),
        ("%qmemory 1 +", "ConfigError: %qmemory: '1 +' is no variable", ConfigError),
        ("%%qmemory q\n1", "ConfigError: %%qmemory takes nothing on its line, got 'q'", ConfigError),
        (
            "%quantize m --group_size 32 --method gptq",
            "ConfigError: method 'gptq' has no option --group_size: did you mean --group-size?",
            ConfigError,
        ),
        (
            "%qconvert m --format mlx --output small",
            "ConfigError: %qconvert has no option --format: its options are --lossy, --wider, --base, --overwrite,",
            ConfigError,
        ),
        ("%qeval m --seqlen 3", "ConfigError: %qeval has no option --seqlen: did you mean --seq-len?", ConfigError),
        (
            "%%quantize m\ndouble-quant = true",
            "ConfigError: NF4 has no option 'double-quant': did you mean double_quant?",
            ConfigError,
        ),
        ("%quantize m --method ntf4", "UnknownMethodError: no method 'ntf4': did you mean nf4?", UnknownMethodError),
        (
            "%quantize m --double-quant true",
            "ConfigError: --double-quant takes no value, got 'true': write --double-quant alone",
            ConfigError,
        ),
        (
            "%quantize m --double-quant=false",
            "ConfigError: --double-quant takes no value, got 'false': write --no-double-quant",
            ConfigError,
        ),
        (
            "%quantize m --overwrite no",
            "ConfigError: --overwrite takes no value, got 'no': leave --overwrite out",
            ConfigError,
        ),
        (
            "%quantize my models/a",
            "ConfigError: expected one MODEL, got also 'models/a': put quotes around a path that has blanks in it, or ",
            ConfigError,
        ),
        ("%qdoctor now", "ConfigError: %qdoctor takes nothing on its line", ConfigError),
    ],
)
def test_a_cell_with_a_bad_magic_fails_with_one_line(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], cell: str, line: str, cause: type[Exception]
) -> None:
    result = shell.run_cell(cell)
    assert type(result.error_in_exec) is MagicError
    assert type(result.error_in_exec.__cause__) is cause
    printed = capsys.readouterr().out.strip()
    assert printed.startswith(line)
    assert "\n" not in printed


def test_a_magic_error_is_no_usage_error_and_reaches_python_callers(shell: InteractiveShell) -> None:
    with pytest.raises(MagicError, match="no method 'nf5'") as caught:
        shell.run_line_magic("quantize", "m --method nf5")
    assert caught.value.name == "UnknownMethodError"


def test_debug_shows_the_whole_traceback(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    result = shell.run_cell("%quantize m --method nf5 --debug")
    assert type(result.error_in_exec) is UnknownMethodError
    assert "Traceback" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        pytest.param(ModelNotFoundError("no such model"), MagicError, id="ours"),
        pytest.param(OSError("the first"), MagicError, id="with a cause"),
        pytest.param(RuntimeError("a bug"), RuntimeError, id="unexpected"),
        pytest.param(KeyboardInterrupt(), KeyboardInterrupt, id="stop button"),
    ],
)
def test_nothing_of_a_failed_job_stays_in_memory(
    failing: Any, error: BaseException, shown: type[BaseException]
) -> None:
    magics = failing(error, "%fail")
    assert sys.last_type is shown
    assert sys.last_value is not None
    gc.collect()
    assert magics.seen() is None


def test_a_bad_line_costs_no_garbage_collection(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(1))
    with pytest.raises(MagicError):
        shell.run_line_magic("quantize", "m --method nf5")
    assert not collected


@pytest.mark.parametrize("line", ["%fail;", "%fail ;"])
def test_a_semicolon_at_the_end_keeps_the_result_off_the_page(shell: InteractiveShell, line: str) -> None:
    @magics_class
    class Telling(Magics):
        @line_magic
        @short_errors
        def fail(self, line: str) -> str:
            """Return its line."""
            return f"[{line.strip()}]"

    shell.register_magics(Telling(shell))
    assert shell.run_line_magic("fail", "a;b") == "[a;b]"
    assert shell.run_cell(line).result is None


def test_the_cause_of_our_error_is_kept(failing: Any) -> None:
    failing(OSError("the first"), "%fail")
    assert isinstance(sys.last_value, MagicError)
    assert str(sys.last_value.__cause__) == "the second"
    assert str(sys.last_value.__cause__.__cause__) == "the first"
