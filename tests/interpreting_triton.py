"""Where Triton's kernels are tested without a GPU: `make test-triton`, in an environment that has Triton."""

import os
from importlib.util import find_spec

import pytest

# Triton reads it when a kernel is defined, so that it holds for a whole process.
_INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"


def skip_unless(*, interpreted: bool) -> None:
    """Skip a file whose kernels are to be interpreted, or compiled, where they would not be."""
    if find_spec("triton") is None or interpreted != _INTERPRETS:
        pytest.skip("run `make test-triton`", allow_module_level=True)
