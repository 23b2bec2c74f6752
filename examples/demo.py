"""Quantize a model with NF4 and int8, reload both in new processes with plain transformers, and run the first notebook.

`make demo` runs it with SmolLM2-135M-Instruct; `python examples/demo.py MODEL` with another model.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import qtoolkit as qt

HERE = Path(__file__).parent
QUESTION = "What is the capital of France?"


def quantize(model: str, config: qt.NF4 | qt.Int8, output: Path) -> None:
    """Quantize, print memory before, after and at the peak, and save."""
    print(f"\n== {type(config).__name__}\n", flush=True)
    quantized = qt.quantize(model, config, output=output, overwrite=True)
    print(quantized.memory)


def answer(folder: Path) -> None:
    """Let a new process, which does not know qtoolkit, read the result and write text with it."""
    print(f"\nReloaded from {folder} by plain transformers in a new process:\n> {QUESTION}", flush=True)
    subprocess.run([sys.executable, HERE / "generate.py", folder, QUESTION], check=True)


def run_notebook(notebook: Path, output: Path) -> Path:
    """Run a notebook to an HTML page, and return the page's path."""
    options = ["--execute", "--to", "html", "--output-dir", str(output), "--log-level", "WARN"]
    options += ["--ExecutePreprocessor.extra_arguments=--log-level=ERROR"]  # the kernel's own
    subprocess.run([sys.executable, "-m", "nbconvert", *options, str(notebook)], check=True)
    return output / notebook.with_suffix(".html").name


def main() -> None:
    """Run the whole demonstration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="Hub id, folder or .gguf file")
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="for results (default: %(default)s)")
    options = parser.parse_args()
    output = options.output.absolute()

    for config in (qt.NF4(), qt.Int8()):
        folder = output / config.method
        try:
            quantize(options.model, config, folder)
        except qt.QToolkitError as error:
            sys.exit(f"{type(error).__name__}: {error}")
        answer(folder)
    page = run_notebook(HERE.parent / "notebooks" / "01_quickstart.ipynb", output)
    print(f"\nThe first notebook, run just now: {page}")


if __name__ == "__main__":
    main()
