"""Keep pytest's processes from what takes long at their start: `pytest -p tests.lean_start`, before all other plugins.

nbval imports nbformat, that imports jsonschema, and that compiles a grammar of addresses where there is one: a second
and a half in each process. No test checks an address, and jsonschema goes without it.

Garbage collections while modules are imported and tests collected find next to nothing, and look through more and more
each time; tests/conftest.py lets them begin again.
"""

import gc
import sys

gc.disable()

sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
