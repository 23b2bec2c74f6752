"""How long `import qtoolkit`, `%load_ext qtoolkit` and opening the panels take, beside packages that they do not load.

Each figure is the median over fresh processes, taken in turn; the time runs inside the process, from before the
statement until after it, so that starting Python is not counted. A first round, not counted, warms the disk cache.
"""

import argparse
import subprocess
import sys
from statistics import median

PANELS = "import qtoolkit\nfrom qtoolkit.notebook.panels import Panel"
SHELL = "from IPython.core.interactiveshell import InteractiveShell\nshell = InteractiveShell.instance()"
# Statement -> what is run before the clock starts.
STATEMENTS = {
    "import qtoolkit": "",
    "shell.run_line_magic('load_ext', 'qtoolkit')": SHELL,
    "Panel('output/no-such-model')": PANELS,
    "import numpy": "",
    "import ipywidgets": "",
    "import torch": "",
    "import transformers": "",
    "from transformers import AutoModelForCausalLM": "",
}


def seconds(statement: str, before: str) -> float:
    """Run a statement in a fresh process and return the seconds that it took."""
    lines = [before, "import time", "started = time.perf_counter()", statement, "print(time.perf_counter() - started)"]
    command = [sys.executable, "-c", "\n".join(lines)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Print one line for each statement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="fresh processes for each statement (default: 5)")
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for number in range(runs + 1):
        for statement, before in STATEMENTS.items():
            taken = seconds(statement, before)
            if number:
                times[statement].append(taken)
    print(f"median (and range) of {runs} fresh processes, Python {sys.version.split()[0]}\n")
    for statement, taken_times in times.items():
        low, middle, high = min(taken_times), median(taken_times), max(taken_times)
        print(f"{middle:8.3f} s  ({low:.3f} to {high:.3f})  {statement}")


if __name__ == "__main__":
    main()
