"""The only importer of packages that a user may not have, and the only watcher of packages imported later."""

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

# Package -> what to install, as the extras of pyproject.toml have it. Not the extras: the name qtoolkit belongs to
# somebody else on PyPI, and `pip install 'qtoolkit[...]'` would bring their package.
REQUIREMENTS = {
    "bitsandbytes": "bitsandbytes>=0.50",
    "datasets": "datasets>=4.0",
    "gguf": "gguf>=0.19",
    "gptqmodel": "gptqmodel>=7.7",
    "llama_cpp": "llama-cpp-python>=0.3.36",
    "lm_eval": "lm-eval>=0.4.13",
    "optimum": "optimum>=2.3",
    "pandas": "pandas>=2.2",
    "pyarrow": "pyarrow>=18.1",
}

# Those whose layers run quantized models, and those that read files of ours: what comes out depends on their versions.
RUNNING, READING = ("bitsandbytes",), ("gptqmodel",)
# Resident bytes of an import, measured on Linux, x86-64.
RESIDENT_BYTES = {"bitsandbytes": 47_000_000}


def optional(package: str, needed_by: str) -> ModuleType:
    """Import `package`, or say how to install it.

    Args:
        package: import name, one of `REQUIREMENTS` or a module in it.
        needed_by: what asks for it, for the message: "method 'nf4'".

    Raises:
        MissingDependencyError: when it is not installed or does not import here; not where memory ran out.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(_is_news)
    try:
        return importlib.import_module(package)
    except Exception as error:  # a library of the system that it needs may be missing, which raises anything
        if memory_cause(error):
            raise
        package = package.partition(".")[0]
        command = f"pip install '{REQUIREMENTS[package]}'"
        state = f"which does not import ({oneline(error)})" if is_installed(package) else "which is not installed"
        raise MissingDependencyError(f"{needed_by} needs the package {package}, {state}: run `{command}`") from error
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not news: bitsandbytes says at import that it found no kernel of a package that nobody asked for."""
    return "kernels-community" not in record.getMessage()


def is_installed(package: str) -> bool:
    """Whether `package` can be found, without importing it."""
    return sys.modules.get(package) is not None or importlib.util.find_spec(package) is not None


def brought(group: str) -> Mapping[str, list[EntryPoint]]:
    """What installed packages bring to an entry-point group, by name; nothing is imported.

    Args:
        group: "qtoolkit.methods", "qtoolkit.formats" or "qtoolkit.kernels".
    """
    return _entry_points(group, tuple(sys.path))


@lru_cache(maxsize=8)
def _entry_points(group: str, path: tuple[str, ...]) -> Mapping[str, list[EntryPoint]]:
    """As `brought`; read anew where packages are looked for elsewhere (`path`)."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        found.setdefault(entry.name, []).append(entry)
    return found


def package_of(entry: EntryPoint) -> str:
    """The name by which pip knows the package that brings an entry point; what it names where that is not known."""
    return entry.dist.name if entry.dist else entry.value


def when_imported(module: str, callback: Callable[[], object]) -> None:
    """Call `callback` once `module` is imported: now if it is already, otherwise right after somebody imports it.

    The import of `module` itself is never caused by this, so that watching costs nothing.
    """
    if module in sys.modules:
        callback()
    else:
        sys.meta_path.insert(0, _Watcher(module, callback))


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds one module as the finders after it do, and calls back once it has run."""

    def __init__(self, module: str, callback: Callable[[], object]) -> None:
        self.module, self.callback = module, callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module or self not in sys.meta_path:
            return None
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = (finder.find_spec(fullname, path, target) for finder in later)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            loader, run = spec.loader, spec.loader.exec_module

            def run_and_call(module: ModuleType) -> None:
                # On the instance for one call only: the loader keeps its type, so that sources and resources are found.
                vars(loader).pop("exec_module", None)
                run(module)
                if self in sys.meta_path:
                    # A module that is only looked up, or that fails, is still waited for.
                    sys.meta_path.remove(self)
                    self.callback()

            loader.exec_module = run_and_call  # type: ignore[method-assign]
        return spec
