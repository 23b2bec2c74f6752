"""What quantizing single layers is predicted to cost, beside what it costs; and what bits by sensitivity gain.

`python benchmarks/sensitivity.py --text valid.txt` prints both for SmolLM2-135M: the first half of the text is measured
and calibrated on, 64 x 512 tokens, and the second gives KL divergences from bfloat16, on 32 windows of 1,024 tokens.
"""

import argparse
import resource
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from ruler import Ruler, calibration_tokens, dense_weights, difference, evaluation_windows

import qtoolkit as qt
from qtoolkit.methods import get_method, rules_of
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.planning.allocation import Choice, allocate
from qtoolkit.planning.layers import layers_to_quantize
from qtoolkit.readers import fused_unit
from qtoolkit.records import Sensitivity, ignore_progress
from qtoolkit.sensitivity import measure_sensitivity
from qtoolkit.tensor.hessian import Hessian
from tests.sample_models import smollm2_folder

BITS = (2, 3, 4, 5, 6, 8)
# Of layouts that know nothing.
FEW, MORE = 3, 4


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
    found = measure_sensitivity(checkpoint, method, config, dict.fromkeys(layers, BITS), device="cpu")
    print(f"sensitivity of {len(layers)} layers: {found.seconds:.0f} s, {cpu_seconds() - started:.0f} CPU seconds here")
    return found, checkpoint


def beside_measured(found: Sensitivity, checkpoint: Any, config: Any, count: int, bits: int) -> None:
    """KL divergence of one layer quantized alone, for some layers, on the text that the prediction is for."""
    tokens = calibration_tokens(
        checkpoint.tokenizer, Path(config.calibration), num_samples=found.num_samples, seq_len=found.seq_len
    )
    model = qt.load(checkpoint.path, device="cpu", dtype="float32")
    assert not isinstance(model, qt.QuantizedModel)
    method = get_method("gptq")
    layers = layers_to_quantize(checkpoint, method, config, "cpu")
    pairs, known = [], found.by_layer()
    with torch.no_grad():
        before = model(tokens[:8]).logits.log_softmax(-1)
        for place in range(count):
            layer = layers[place * len(layers) // count]
            module = model.get_submodule(layer.name)
            inputs = Hessian(layer.in_features, torch.device("cpu"))
            hook = module.register_forward_pre_hook(lambda module, args, to=inputs: to.add(args[0]))
            for part in tokens.split(8):
                model.model(part)
            hook.remove()
            kept = module.weight.clone()
            ((changed,),) = method.corrected([kept], inputs, [config.with_bits(bits)])
            module.weight.copy_(changed)
            after = model(tokens[:8]).logits.log_softmax(-1)
            module.weight.copy_(kept)
            measured = float((before.exp() * (before - after)).sum(-1).mean())
            loss = known[layer.name][bits]
            pairs.append((loss.loss, measured))
            print(f"{layer.name:<42} predicted {loss.loss:.2e} +- {loss.standard_error:.0e}  measured {measured:.2e}")
    logs = torch.tensor(pairs).log()
    print(f"{bits} bits: correlation of logarithms {logs.T.corrcoef()[0, 1]:.3f}, ", end="")
    print(f"median ratio {(logs[:, 0] - logs[:, 1]).exp().median():.2f}")


def layouts(found: Sensitivity, checkpoint: Any, config: Any, target: float) -> Iterator[tuple[str, Any]]:
    """Configs of about equal bytes: by sensitivity, by the order of blocks, at random; fused layers always alike."""
    method = get_method("gptq")
    layers = layers_to_quantize(checkpoint, method, config, "cpu")
    budget = int(target * sum(layer.num_weights for layer in layers) / 8)
    losses = found.by_layer()
    units = defaultdict(list)
    for layer in layers:
        units[fused_unit(layer.name)].append(layer)
    choices = {
        unit: {
            bits: Choice(
                sum(method.plan_layer(layer, config.with_bits(bits)).disk_bytes for layer in members),
                sum(losses[layer.name][bits].loss for layer in members),
            )
            for bits in BITS
        }
        for unit, members in units.items()
    }
    names = [*choices]
    shuffled = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    orders = {"random": [names[place] for place in shuffled], "first": names, "last": names[::-1]}
    found_bits = {"by sensitivity": allocate(choices, budget)}
    for what, order in orders.items():
        chosen, left = dict.fromkeys(order, FEW), budget - sum(own[FEW].size for own in choices.values())
        for unit in order:
            added = choices[unit][MORE].size - choices[unit][FEW].size
            if added <= left:
                chosen[unit], left = MORE, left - added
        found_bits[f"{what} layers {MORE} bits"] = chosen
    for what, chosen in found_bits.items():
        print(f"{what}: predicted {sum(choices[unit][bits].loss for unit, bits in chosen.items()):.4f} nats per token")
        yield what, as_config(config, {layer.name: bits for unit, bits in chosen.items() for layer in units[unit]})


def as_config(config: Any, bits: dict[str, int]) -> Any:
    """A config whose layers have these bits."""
    base, rules = rules_of(bits)
    return qt.GPTQ(**{**config.to_dict(), "bits": base, "rules": rules, "refine": None})


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--target", type=float, default=3.8)
    parser.add_argument("--layers", type=int, default=17, help="how many are quantized alone, spread over the model")
    parser.add_argument("--cache", type=Path, default=Path("build"), help="where the base's hidden states are kept")
    given = parser.parse_args()
    text = given.text.read_text(encoding="utf-8")
    folder = smollm2_folder()
    with TemporaryDirectory() as place:
        halves = [Path(place) / name for name in ("first.txt", "second.txt")]
        halves[0].write_text(text[: len(text) // 2], encoding="utf-8")
        halves[1].write_text(text[len(text) // 2 :], encoding="utf-8")
        config = qt.GPTQ(
            group_size=64, calibration=str(halves[0]), num_samples=64, seq_len=512, format="compressed-tensors"
        )
        found, checkpoint = predicted(folder, config)
        if given.layers:
            beside_measured(found, checkpoint, config, given.layers, FEW)
        ruler = Ruler(folder, evaluation_windows(checkpoint.tokenizer, halves[1]), given.cache)
        best = None
        for name, mixed in layouts(found, checkpoint, config, given.target):
            made = qt.quantize(folder, mixed, device="cpu")
            layers = made.report.layers
            bits = 8 * sum(layer.disk_bytes for layer in layers) / sum(layer.num_weights for layer in layers)
            figures = ruler.measure(dense_weights(made.model))
            windows = figures["kl_by_window"]
            best = best or windows
            shown = f"KL {figures['kl'].value:.4f} +- {figures['kl'].error:.4f}"
            more = difference(windows, best)
            print(
                f"{name:<24} {bits:.3f} bits per weight, {shown}, {more.value:.4f} +- {more.error:.4f} more", flush=True
            )


if __name__ == "__main__":
    main()
