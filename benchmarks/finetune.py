"""SmolLM2-135M learns a task by LoRA: in full precision, in NF4, in GPTQ of 4 bits; then both become one model again.

Run `OMP_NUM_THREADS=2 python benchmarks/finetune.py`. The task is made here: 300 orders in words become lines of JSON,
at most 64 tokens each, one epoch, LoRA of rank 8 on all linear layers of the blocks, in float32; the figures are means
of `--seeds` seeds. `--merge` measures `qt.merge` instead, of the adapter that the first seed makes.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import qtoolkit as qt

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "build" / "models" / "SmolLM2-135M-Instruct"
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TRAINED, HELD_OUT, BATCH, LARGEST = 300, 40, 10, 64
# Batches at the end whose loss is compared with that of the first.
LAST = 5
# The fall of the loss may differ by this share of the largest.
WITHIN = 0.05
PEOPLE = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gro", "Hugo", "Ida", "Jan"]
THINGS = ["apples", "bricks", "candles", "drums", "eggs", "forks", "gloves", "hats", "inks", "jars"]
TOWNS = ["Aarau", "Bern", "Chur", "Davos", "Genf", "Horgen", "Ilanz", "Jona", "Lugano", "Thun"]
WAYS = (
    "{person} from {town} wants {count} {thing}.",
    "Please send {count} {thing} to {town}, for {person}.",
    "{count} {thing} go to {person} in {town}.",
)


def orders(seed: int) -> list[str]:
    """Make all examples of a seed: what is trained on, then what is held out."""
    chosen = random.Random(seed)  # noqa: S311  # no secret is made of it
    examples: dict[str, str] = {}
    while len(examples) < TRAINED + HELD_OUT:
        words = {"person": chosen.choice(PEOPLE), "thing": chosen.choice(THINGS), "town": chosen.choice(TOWNS)}
        values: dict[str, Any] = {**words, "count": chosen.randint(2, 99)}
        asked = chosen.choice(WAYS).format(**values)
        told = f'{{"to": "{values["person"]}", "at": "{values["town"]}", "{values["thing"]}": {values["count"]}}}'
        examples[asked] = f"{asked}\n{told}"
    return list(examples.values())


def batches(tokenizer: Any, texts: list[str]) -> list[dict[str, torch.Tensor]]:
    """Return tokens, mask and labels of each batch, [examples, tokens]; padding is no label."""
    found = []
    for start in range(0, len(texts), BATCH):
        encoded = tokenizer(
            texts[start : start + BATCH], padding=True, truncation=True, max_length=LARGEST, return_tensors="pt"
        )
        labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100)
        found.append({**encoded, "labels": labels})
    return found


@torch.no_grad()
def loss_on(model: Any, given: list[dict[str, torch.Tensor]]) -> float:
    """Return the mean loss of a token over batches."""
    model.eval()
    counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in given]
    losses: list[float] = [model(**batch).loss.item() * count for batch, count in zip(given, counts, strict=True)]
    return sum(losses) / sum(counts)


def train(model: Any, given: list[dict[str, torch.Tensor]], seed: int, *, rate: float) -> tuple[PeftModel, list[float]]:
    """Train LoRA beside a model for one epoch; return both, and the loss before each step. A rate of 0 is frozen."""
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=LAYERS, task_type="CAUSAL_LM"))
    adapted.train()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(trained, lr=rate)
    losses = []
    for step, batch in enumerate(given):
        for group in adam.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 5) * (1 - step / len(given))
        loss = adapted(**batch).loss
        losses.append(loss.item())
        if rate:
            loss.backward()
            adam.step()
            adam.zero_grad()
    return adapted, losses


def opened(name: str, folder: Path) -> Any:
    """Load one of the three models, to compute in float32."""
    if name == "full":
        return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    if name == "NF4":
        full = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
        return qt.quantize(full, qt.NF4(compute_dtype="float32"), device="cpu").model
    return qt.load(folder, device="cpu", dtype="float32").model


def quantized(folder: Path, texts: list[str]) -> Path:
    """Quantize the model with GPTQ of 4 bits, calibrated on the task's text."""
    if not folder.exists():
        qt.quantize(MODEL, recipe(texts), output=folder, device="cpu")
    return folder


def recipe(texts: list[str]) -> qt.GPTQ:
    """Return GPTQ of 4 bits on the task's text."""
    return qt.GPTQ(bits=4, group_size=64, calibration=["\n\n".join(texts)], num_samples=32, seq_len=128)


def measure_training(arguments: argparse.Namespace, folder: Path) -> None:
    """Print what the loss falls by, and whether that is the same."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    falls: dict[str, list[float]] = {"GPTQ": [], "full": [], "NF4": [], "GPTQ, adapter frozen": []}
    for seed in range(arguments.seeds):
        texts = orders(seed)
        given, held_out = (batches(tokenizer, part) for part in (texts[:TRAINED], texts[TRAINED:]))
        for name, fallen in falls.items():
            if "frozen" in name and seed:
                continue
            model = opened(name.partition(",")[0], quantized(folder, orders(0)[:TRAINED]))
            before_out = loss_on(model, held_out)
            started, worked = time.perf_counter(), time.process_time()
            model, losses = train(model, given, seed, rate=0.0 if "frozen" in name else arguments.rate)
            seconds, worked = time.perf_counter() - started, time.process_time() - worked
            # Each batch is new to the model: the first before any step, the last ones after nearly all.
            before, after, after_out = losses[0], sum(losses[-LAST:]) / LAST, loss_on(model, held_out)
            fallen.append(before - after)
            print(
                f"seed {seed}, {name:<21} loss {before:.3f} -> {after:.3f} (falls by {before - after:.3f}), held out "
                f"{before_out:.3f} -> {after_out:.3f}   {seconds:5.0f} s of training, {worked:5.0f} s of processor",
                flush=True,
            )
            del model
    means = {name: sum(values) / len(values) for name, values in falls.items()}
    others = {name: means[name] for name in ("full", "NF4")}
    for name in ("GPTQ", "GPTQ, adapter frozen"):
        shares = {other: means[name] / fall for other, fall in others.items()}
        same = all(abs(share - 1) <= WITHIN for share in shares.values())
        told = ", ".join(f"{share:.3f} of that on {other}" for other, share in shares.items())
        print(f"{name}: falls by {told}: {'the same' if same else 'NOT the same'} within {WITHIN:.0%}")


def measure_merge(arguments: argparse.Namespace, folder: Path) -> None:
    """Print the divergence of a merged model from base and adapter, beside that of quantizing their sum whole."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = orders(0)
    given, held_out = texts[:TRAINED], texts[TRAINED:]
    gptq, adapter, whole = quantized(folder / "gptq", given), folder / "adapter", folder / "whole"
    if not adapter.exists():
        model, _ = train(opened("GPTQ", gptq), batches(tokenizer, given), 0, rate=arguments.rate)
        model.save_pretrained(str(adapter))
    full = AutoModelForCausalLM.from_pretrained(MODEL)
    PeftModel.from_pretrained(full, adapter).merge_and_unload().save_pretrained(whole)
    tokenizer.save_pretrained(whole)
    del full
    measured: dict[str, Any] = {"text": held_out, "seq_len": 128, "num_tokens": 1024, "device": "cpu"}
    options: dict[str, Any] = {"device": "cpu", "overwrite": True}
    with qt.measure_peak() as merging:
        qt.merge(gptq, adapter, base=MODEL, config=recipe(given), output=folder / "merged", **options)
    with qt.measure_peak() as quantizing:
        qt.quantize(whole, recipe(given), output=folder / "whole-gptq", **options)
    qt.merge(gptq, adapter, into_codes=True, output=folder / "codes", **options)
    found = {}
    for name in ("whole-gptq", "merged", "codes", "gptq"):
        report = qt.evaluate(folder / name, base=whole, speed=False, **measured)
        found[name] = report.kl_divergence or 0.0
        print(f"{name:<11} KL divergence {found[name]:.5f} from base and adapter, perplexity {report.perplexity:.3f}")
    ratio = found["merged"] / found["whole-gptq"]
    print(f"merged: {ratio:.3f} of the divergence of quantizing the sum whole")
    block = sum(one.numel() for one in AutoModelForCausalLM.from_pretrained(MODEL).model.layers[0].parameters())
    for name, meter in (("qt.merge", merging), ("quantizing the sum whole", quantizing)):
        peak = meter.report.peak_rss - meter.report.rss_before
        print(f"{name}: peak {peak / 1e6:.0f} MB above what stood in memory before; a block has {2e-6 * block:.0f} MB")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--merge", action="store_true", help="measure qt.merge instead of training")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--folder", help="where models are kept between runs; default: a temporary one")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary)
        if arguments.merge:
            measure_merge(arguments, folder)
        else:
            measure_training(arguments, folder / "gptq")


if __name__ == "__main__":
    main()
