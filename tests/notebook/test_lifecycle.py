"""Loading, loading again, reloading and unloading the extension; what loading imports."""

import subprocess
import sys

from IPython.core.interactiveshell import InteractiveShell

from qtoolkit.notebook import QuantizeMagics, register
from qtoolkit.notebook.completion import Matcher

NAMES = {
    "line": {"quantize", "qplan", "qeval", "qcompare", "qfrontier", "qmemory", "qpanel", "qpublish", "qdoctor"}
    | {"qconvert", "qmerge", "qrepair", "qverify"},
    "cell": {"quantize", "qplan", "qcompare", "qfrontier", "qmemory"},
}


def of_ours(shell: InteractiveShell) -> dict[str, set[str]]:
    tables = shell.magics_manager.magics
    return {
        kind: {name for name, magic in named.items() if isinstance(getattr(magic, "__self__", None), QuantizeMagics)}
        for kind, named in tables.items()
    }


def num_configurables(shell: InteractiveShell) -> int:
    return sum(isinstance(item, QuantizeMagics) for item in shell.configurables)


def num_completers(shell: InteractiveShell) -> int:
    matchers = [one for one in getattr(shell.Completer, "custom_matchers", ()) if isinstance(one, Matcher)]
    # IPython 7 has none.
    return len(matchers) + ("_complete" in vars(shell.Completer))


def test_loading_gives_the_magics(shell: InteractiveShell) -> None:
    assert of_ours(shell) == NAMES


def test_loading_twice_changes_nothing(shell: InteractiveShell) -> None:
    shell.run_line_magic("load_ext", "qtoolkit")
    register(shell)
    assert (of_ours(shell), num_configurables(shell), num_completers(shell)) == (NAMES, 1, 1)
    shell.run_line_magic("config", "QuantizeMagics.progress = 'text'")
    assert shell.find_line_magic("quantize").__self__.progress == "text"


def test_reloading_keeps_settings_and_takes_new_ones(shell: InteractiveShell) -> None:
    shell.run_line_magic("config", "QuantizeMagics.progress = 'text'")
    shell.run_line_magic("reload_ext", "qtoolkit")
    assert (of_ours(shell), num_configurables(shell), num_completers(shell)) == (NAMES, 1, 1)
    assert shell.find_line_magic("quantize").__self__.progress == "text"
    shell.run_line_magic("config", "QuantizeMagics.progress = 'none'")
    assert shell.find_line_magic("quantize").__self__.progress == "none"


def test_unloading_takes_all_back_and_loading_works_again(shell: InteractiveShell) -> None:
    shell.run_line_magic("unload_ext", "qtoolkit")
    assert of_ours(shell) == {"line": set(), "cell": set()}
    assert (num_configurables(shell), num_completers(shell)) == (0, 0)
    assert shell.find_line_magic("quantize") is None
    shell.run_line_magic("load_ext", "qtoolkit")
    assert of_ours(shell) == NAMES


def test_loading_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "before = set(sys.modules)\n"
        "shell.run_line_magic('load_ext', 'qtoolkit')\n"
        "assert shell.find_line_magic('quantize')\n"
        "print(' '.join({name.partition('.')[0] for name in set(sys.modules) - before}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "qtoolkit" in loaded
    assert not loaded & {"torch", "transformers", "huggingface_hub", "ipywidgets", "numpy", "bitsandbytes"}
