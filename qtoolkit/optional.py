"""Import packages that a user may not have, and watch for packages that are imported later; nobody else does either."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from qtoolkit.errors import MissingDependencyError, memory_cause, oneline

# Package -> requirement to install, as in the extras of pyproject.toml. Messages do not name the extras: on PyPI, the
# name qtoolkit belongs to somebody else, and `pip install 'qtoolkit[...]'` would install their package.
REQUIREMENTS = {
    "bitsandbytes": "bitsandbytes>=0.50",
    "compressed_tensors": "compressed-tensors>=0.15",
    "datasets": "datasets>=4.0",
    "distributed": "distributed>=2026.8",
    "gguf": "gguf>=0.19",
    "gptqmodel": "gptqmodel>=7.7",
    "llama_cpp": "llama-cpp-python>=0.3.36",
    "lm_eval": "lm-eval>=0.4.13",
    "optimum": "optimum>=2.3",
    "pandas": "pandas>=2.2",
    "peft": "peft>=0.20",
    "pyarrow": "pyarrow>=18.1",
}

# Packages whose layers run quantized models, and packages that read our files: results depend on their versions.
RUNNING = ("bitsandbytes",)
READING = ("compressed_tensors", "gptqmodel")
# Resident bytes that importing a package adds, measured on Linux, x86-64.
RESIDENT_BYTES = {"bitsandbytes": 47_000_000}


def optional(package: str, needed_by: str) -> ModuleType:
    """Import `package`, or raise an error that says how to install it.

    Args:
        package: import name, one of `REQUIREMENTS` or a module in it.
        needed_by: what needs it, for the message: "method 'nf4'".

    Raises:
        MissingDependencyError: it is not installed or fails to import. Errors of memory that ran out are not changed.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(_is_news)
    try:
        return importlib.import_module(package)
    except Exception as error:  # a missing system library may raise anything
        if memory_cause(error):
            raise
        package = package.partition(".")[0]
        command = f"pip install '{REQUIREMENTS[package]}'"
        state = f"which does not import ({oneline(error)})" if is_installed(package) else "which is not installed"
        raise MissingDependencyError(f"{needed_by} needs the package {package}, {state}: run `{command}`") from error
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Filter out what bitsandbytes logs at import: that a package which nobody asked for has no kernel for it."""
    return "kernels-community" not in record.getMessage()


def is_installed(package: str) -> bool:
    """Return whether `package` can be found, without importing it."""
    return sys.modules.get(package) is not None or importlib.util.find_spec(package) is not None


def entry_points_in(group: str) -> Mapping[str, list[EntryPoint]]:
    """Return the entry points of installed packages in a group, by name; nothing is imported.

    Args:
        group: "qtoolkit.methods", "qtoolkit.formats" or "qtoolkit.kernels".
    """
    return _entry_points(group, tuple(sys.path))


@lru_cache(maxsize=8)
def _entry_points(group: str, path: tuple[str, ...]) -> Mapping[str, list[EntryPoint]]:
    """Return the same as `entry_points_in`; the cache is keyed by `sys.path`, where packages are looked for."""
    entries: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        entries.setdefault(entry.name, []).append(entry)
    return entries


def package_of(entry: EntryPoint) -> str:
    """Return pip's name of the package that brings an entry point, or the entry point's value if that is unknown."""
    return entry.dist.name if entry.dist else entry.value


def when_imported(module: str, callback: Callable[[], object]) -> None:
    """Call `callback` once `module` is imported: now if it is already, otherwise right after somebody imports it.

    This never imports `module` itself, so that watching costs nothing.
    """
    if module in sys.modules:
        callback()
    else:
        sys.meta_path.insert(0, _Watcher(module, callback))


class _Watcher(importlib.abc.MetaPathFinder):
    """Find one module as the later finders do, and call back once it was executed."""

    def __init__(self, module: str, callback: Callable[[], object]) -> None:
        self.module = module
        self.callback = callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module or self not in sys.meta_path:
            return None
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]
        specs = (finder.find_spec(fullname, path, target) for finder in later)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            loader = spec.loader
            run = loader.exec_module

            def run_and_call(module: ModuleType) -> None:
                # Replaced on the instance and for one call only: the loader keeps its type, by which sources are found.
                vars(loader).pop("exec_module", None)
                run(module)
                if self in sys.meta_path:
                    # Until here, a module that was only looked up, or that failed, is still waited for.
                    sys.meta_path.remove(self)
                    self.callback()

            loader.exec_module = run_and_call  # type: ignore[method-assign]
        return spec
