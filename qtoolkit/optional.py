"""The only importer of packages that a user may not have, and the only watcher of packages imported later."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from qtoolkit.errors import MissingDependencyError

# Package -> the extra of qtoolkit that installs it.
EXTRAS = {
    "bitsandbytes": "bnb",
    "gguf": "gguf",
}


def optional(package: str, needed_by: str) -> ModuleType:
    """Import `package`, or say which extra installs it.

    Args:
        package: import name, one of `EXTRAS`.
        needed_by: what asks for it, for the message: "method 'nf4'".

    Raises:
        MissingDependencyError: when it is not installed or does not import here.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = EXTRAS[package]
        message = f"{needed_by} needs the package {package}: run `pip install 'qtoolkit[{extra}]'` ({error})"
        raise MissingDependencyError(message) from error


def is_installed(package: str) -> bool:
    """Whether `package` can be found, without importing it."""
    return package in sys.modules or importlib.util.find_spec(package) is not None


def when_imported(module: str, callback: Callable[[], object]) -> None:
    """Call `callback` once `module` is imported: now if it is already, otherwise right after somebody imports it.

    The import of `module` itself is never caused by this, so that watching costs nothing.
    """
    if module in sys.modules:
        callback()
    else:
        sys.meta_path.insert(0, _Watcher(module, callback))


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds one module the ordinary way, once, and calls back after it has run."""

    def __init__(self, module: str, callback: Callable[[], object]) -> None:
        self.module, self.callback = module, callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_call(module: ModuleType) -> None:
                run(module)
                self.callback()

            # On the instance: the loader keeps its type, so that sources and resources are still found.
            spec.loader.exec_module = run_and_call  # type: ignore[method-assign]
        return spec
