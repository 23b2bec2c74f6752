"""Where Triton's kernels are tested without a GPU: `make test-triton`, in an environment that has Triton."""

import os
from importlib.util import find_spec

import pytest

# Triton reads it when a kernel is defined, so that it holds for a whole process.
INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"
WHERE = "run `make test-triton`"
interpreted = pytest.mark.skipif(find_spec("triton") is None or not INTERPRETS, reason=WHERE)
compiled = pytest.mark.skipif(find_spec("triton") is None or INTERPRETS, reason=WHERE)
