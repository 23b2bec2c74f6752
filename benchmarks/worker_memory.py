"""What a worker has in memory at its peak, beside what `qt.plan(workers=)` says of it.

    OMP_NUM_THREADS=1 python benchmarks/worker_memory.py MODEL [--only NAME]

Each job is done by one fresh process, which is asked for its peak when the job is done: the most resident bytes that
Linux has seen of it, torch's and transformers' code included.
"""

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from workers import TEXTS, first_blocks

import qtoolkit as qt


def calibrated(**options: Any) -> qt.GPTQ:
    """Return a config with the text of this benchmark."""
    return qt.GPTQ(**{"group_size": 64, "calibration": TEXTS, **options})


# Whether it is of the wide model, and the config.
JOBS: dict[str, tuple[bool, Any]] = {
    "2 shards of 8 x 512": (False, calibrated(shards=2, num_samples=16, seq_len=512)),
    "4 shards of 4 x 1024": (False, calibrated(shards=4, num_samples=16, seq_len=1024)),
    "8 shards of 2 x 256": (False, calibrated(shards=8, num_samples=16, seq_len=256)),
    "2 shards of 4 x 256, wide": (True, calibrated(shards=2, num_samples=8, seq_len=256)),
    "blocks each for itself, 8 x 512": (False, calibrated(propagate=False, num_samples=8, seq_len=512)),
    "blocks each for itself, 4 shards": (False, calibrated(propagate=False, shards=4, num_samples=16, seq_len=512)),
    "absmax, wide": (True, qt.AbsMax(bits=4, group_size=64)),
    "NF4, wide": (True, qt.NF4()),
    "a .gguf file": (False, qt.GGUF(quant_type="Q4_K_M")),
}


def peak_of_this_process() -> int:
    """Return the most resident bytes that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return 1024 * int(kilobytes)


def wide_model(model: Path, folder: Path) -> Path:
    """Return the folder of a random model of two blocks, with the tokenizer of another."""
    config = AutoConfig.from_pretrained(
        model,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "wide")
    AutoTokenizer.from_pretrained(model).save_pretrained(folder / "wide")
    return folder / "wide"


def main() -> None:
    """Print a line for each job."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = (first_blocks(given.model, folder, 3), wide_model(given.model, folder))
        for number, (title, (is_wide, config)) in enumerate(JOBS.items()):
            if given.only not in title:
                continue
            model = models[is_wide]
            sharing = qt.plan(model, config, workers=1, device="cpu").sharing
            assert sharing is not None
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
                qt.quantize(model, config, output=folder / str(number), device="cpu", executor=executor)
                peak = executor.submit(peak_of_this_process).result()
            planned = sharing.peak_rss
            print(f"{title:36} {peak / 1e6:7.0f} MB  plan {planned / 1e6:7.0f} MB  {planned / peak:.3f}", flush=True)


if __name__ == "__main__":
    main()
