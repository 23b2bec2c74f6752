"""Keep pytest's processes from what takes long at their start: `pytest -p tests.lean_start`, before all other plugins.

nbval imports nbformat, that imports jsonschema, and that compiles a grammar of addresses where there is one: a second
and a half in each process. No test checks an address, and jsonschema goes without it.
"""

import sys

sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
