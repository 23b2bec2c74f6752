"""Run the body of a cell magic the way IPython runs a cell, and find what the line of a magic names."""

import ast
from collections.abc import Mapping
from typing import Any

from qtoolkit.errors import ConfigError


def run_body(shell: Any, body: str) -> None:
    """Run Python code in the user's namespace; magics work, and the last expression is shown.

    Errors are raised as they are. `shell.run_cell` would show an error and not raise it, so that the outer cell passes.

    Args:
        shell: the IPython shell.
        body: the text below the magic's line.
    """
    source = shell.transform_cell(body)
    tree = shell.transform_ast(shell.compile.ast_parse(source))
    # Tracebacks find the source by this name.
    name = shell.compile.cache(source, shell.execution_count, raw_code=body)
    statements = tree.body
    silenced = source.rstrip().endswith(";")
    shown = [statements.pop()] if statements and isinstance(statements[-1], ast.Expr) and not silenced else []
    exec(shell.compile(ast.Module(statements, []), name, "exec"), shell.user_global_ns, shell.user_ns)
    if shown:
        exec(shell.compile(ast.Interactive(shown), name, "single"), shell.user_global_ns, shell.user_ns)


def value_of(shell: Any, line: str, local_ns: Mapping[str, Any] | None) -> Any:
    """Return the value of the variable or expression on the line of `%qmemory`.

    Raises:
        ConfigError: there is none, or it fails.
    """
    if not line.strip():
        message = "%qmemory needs a variable that holds a model: `%qmemory q`; or `%%qmemory` above a cell's code"
        raise ConfigError(message)
    try:
        return eval(line, shell.user_ns, local_ns)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        message = f"%qmemory: {line.strip()!r} is no variable or expression that holds a model: {cause}"
        raise ConfigError(message) from error
