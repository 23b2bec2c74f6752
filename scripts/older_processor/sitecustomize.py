"""Make bitsandbytes take the processor for one without AVX512-BF16; see `make test-older`.

Python imports this file at the start of each process that has its folder on PYTHONPATH: kernels and workers too. torch
has variables of its environment for that, and bitsandbytes none.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_ASKED = "bitsandbytes.functional"


class _Finder:
    """Finds the module that is asked whether there is AVX512-BF16, and lets it answer no."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _ASKED else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            module.has_avx512bf16 = lambda: False

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder)
