"""Run another program with our layers known to transformers: `python -m qtoolkit lm_eval --model hf ...`.

For programs started from a command line, which have no place for `import qtoolkit`. This adds that import alone, in
this one process; nothing is installed, and no other start of Python does any work for it.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

from qtoolkit.optional import entry_points_in

USAGE = "usage: python -m qtoolkit PROGRAM [ARGUMENT ...]   (a command, a module or a .py file, and what it is given)"


def main(arguments: list[str]) -> None:
    """Run a program in this process, as `__main__`, with the arguments that follow its name.

    Args:
        arguments: a path that ends with ".py", the name of a command that an installed package brings ("lm_eval"), or
            else of a module ("trl.scripts.sft"); then what the program is given, unchanged.

    Raises:
        SystemExit: with the program's own status, where it ends so; with 2 where there is no such program.
    """
    if not arguments or arguments[0].startswith("-"):
        _refuse(USAGE)
    program = arguments[0]
    commands = entry_points_in("console_scripts")
    sys.argv = list(arguments)
    if program.endswith(".py"):
        if not Path(program).is_file():
            _refuse(f"there is no file {program}: give a path from {Path.cwd()}, or a command or module without .py")
        # As `python FILE` does, which looks for modules beside the file.
        sys.path[0] = str(Path(program).resolve().parent)
        runpy.run_path(program, run_name="__main__")
    elif program in commands:
        sys.exit(commands[program][0].load()())
    elif _is_module(program):
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        _refuse(f"no command and no module {program!r} is installed in {sys.prefix}: install it there. {USAGE}")


def _is_module(name: str) -> bool:
    """Return whether a module of this name can be found; its parents are imported, as `python -m` does."""
    try:
        return all(name.split(".")) and importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _refuse(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
