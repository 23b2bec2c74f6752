"""What rounding single layers is predicted to cost, beside what it costs; and what bits by sensitivity gain.

`python benchmarks/sensitivity.py --text valid.txt` prints both for SmolLM2-135M: the first half of the text is measured
and calibrated on, the second gives the perplexities.
"""

import argparse
import resource
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import qtoolkit as qt
from qtoolkit.methods import get_method, rules_of
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.planning.allocation import Choice, allocate
from qtoolkit.planning.layers import layers_to_quantize
from qtoolkit.records import Sensitivity, ignore_progress
from qtoolkit.sensitivity import measure_sensitivity
from qtoolkit.texts.calibration_text import load_calibration
from tests.sample_models import smollm2_folder

BITS = (3, 4, 8)


def cpu_seconds() -> float:
    """Of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def predicted(folder: Path, config: Any) -> tuple[Sensitivity, Any]:
    """The sensitivity of all layers, measured or from the cache, and the opened model."""
    checkpoint = open_checkpoint(folder, revision=None, token=None, tokenizer=None, on_progress=ignore_progress)
    method = get_method("gptq")
    layers = layers_to_quantize(checkpoint, method, config, "cpu")
    started = cpu_seconds()
    found = measure_sensitivity(checkpoint, method, config, layers, BITS, device="cpu")
    print(f"sensitivity of {len(layers)} layers: {found.seconds:.0f} s, {cpu_seconds() - started:.0f} CPU seconds here")
    return found, checkpoint


def beside_measured(found: Sensitivity, checkpoint: Any, config: Any, count: int, bits: int) -> None:
    """KL divergence of rounding one layer alone, for some layers, on the text that the prediction is for."""
    options: dict[str, Any] = {"num_samples": found.num_samples, "seq_len": found.seq_len, "max_seq_len": None}
    tokens = load_calibration(
        config.calibration, checkpoint.tokenizer, **options, vocab_size=49152, on_progress=ignore_progress
    ).tokens[:8]
    model = qt.load(checkpoint.path, device="cpu", dtype="float32")
    assert not isinstance(model, qt.QuantizedModel)
    layers = layers_to_quantize(checkpoint, get_method("gptq"), config, "cpu")
    pairs, known = [], found.by_layer()
    with torch.no_grad():
        before = model(tokens).logits.log_softmax(-1)
        for place in range(count):
            layer = layers[place * len(layers) // count]
            weight = model.get_submodule(layer.name).weight
            kept = weight.clone()
            weight.copy_(get_method("gptq").rounded(kept, layer, config.with_bits(bits)))
            after = model(tokens).logits.log_softmax(-1)
            weight.copy_(kept)
            measured = float((before.exp() * (before - after)).sum(-1).mean())
            loss = known[layer.name][bits]
            pairs.append((loss.loss, measured))
            print(f"{layer.name:<42} predicted {loss.loss:.2e} +- {loss.standard_error:.0e}  measured {measured:.2e}")
    logs = torch.tensor(pairs).log()
    print(f"{bits} bits: correlation of logarithms {logs.T.corrcoef()[0, 1]:.3f}, ", end="")
    print(f"median ratio {(logs[:, 0] - logs[:, 1]).exp().median():.2f}")


def layouts(found: Sensitivity, checkpoint: Any, config: Any, target: float) -> Iterator[tuple[str, Any]]:
    """Configs of about equal bytes: by sensitivity, by the order of blocks, at random; and the same bits for all."""
    method = get_method("gptq")
    layers = layers_to_quantize(checkpoint, method, config, "cpu")
    sizes = {
        layer.name: {bits: method.plan_layer(layer, config.with_bits(bits)).disk_bytes for bits in BITS}
        for layer in layers
    }
    budget = int(target * sum(layer.num_weights for layer in layers) / 8)
    losses = found.by_layer()
    # 3 and 4 bits alone for layouts that know nothing.
    orders = {
        "first layers 4 bits": [layer.name for layer in layers],
        "last layers 4 bits": [layer.name for layer in reversed(layers)],
        "random layers 4 bits": [layers[int(place)].name for place in torch.randperm(len(layers))],
    }
    choices = {
        name: {bits: Choice(size, losses[name][bits].loss) for bits, size in own.items()} for name, own in sizes.items()
    }
    yield f"by sensitivity, at most {target}", as_config(config, allocate(choices, budget))
    for what, order in orders.items():
        chosen, left = dict.fromkeys(order, 3), budget - sum(own[3] for own in sizes.values())
        for name in order:
            if sizes[name][4] - sizes[name][3] <= left:
                chosen[name], left = 4, left - sizes[name][4] + sizes[name][3]
        yield what, as_config(config, chosen)
    yield "3 bits", config.with_bits(3)
    yield "4 bits", config.with_bits(4)


def as_config(config: Any, bits: dict[str, int]) -> Any:
    """A config whose layers have these bits."""
    base, rules = rules_of(bits)
    return qt.GPTQ(**{**config.to_dict(), "bits": base, "rules": rules})


def perplexity(model: Any, tokens: torch.Tensor) -> float:
    """On windows of tokens [windows, tokens]."""
    with torch.no_grad():
        losses = [model(row[None], labels=row[None]).loss for row in tokens]
    return float(torch.stack(losses).float().mean().exp())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--target", type=float, default=3.8)
    parser.add_argument("--layers", type=int, default=17, help="how many are rounded alone, spread over the model")
    parser.add_argument("--windows", type=int, default=40, help="of 512 tokens, for perplexities")
    given = parser.parse_args()
    text = given.text.read_text(encoding="utf-8")
    folder = smollm2_folder()
    with TemporaryDirectory() as place:
        half = Path(place) / "half.txt"
        half.write_text(text[: len(text) // 2], encoding="utf-8")
        config = qt.GPTQ(group_size=64, calibration=str(half), num_samples=32, seq_len=512)
        found, checkpoint = predicted(folder, config)
        if given.layers:
            beside_measured(found, checkpoint, config, given.layers, 3)
        ids = checkpoint.tokenizer(text[len(text) // 2 :], return_tensors="pt")["input_ids"][0]
        tokens = ids[: given.windows * 512].view(-1, 512)
        for name, mixed in layouts(found, checkpoint, config, given.target):
            made = qt.quantize(folder, mixed, device="cpu")
            layers = made.report.layers
            bits = 8 * sum(layer.disk_bytes for layer in layers) / sum(layer.num_weights for layer in layers)
            print(f"{name:<28} {bits:.3f} bits per weight  perplexity {perplexity(made.model, tokens):.2f}", flush=True)


if __name__ == "__main__":
    main()
