"""Run a GPTQ job: read the calibration text, quantize block by block, load the resulting model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods.gptq import GPTQ, METHOD, optimum
from qtoolkit.methods.gptq.calibrating import begin, report_of
from qtoolkit.methods.gptq.embeddings import quantize_embedding
from qtoolkit.methods.gptq.hidden_states import where_states_wait
from qtoolkit.methods.gptq.layer_groups import GPTQBlocks, storing
from qtoolkit.methods.gptq.notes import note_on_few, note_on_unseen
from qtoolkit.methods.method import Outcome
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.eval_mode import eval_mode
from qtoolkit.models.experts import experts_in_one_tensor
from qtoolkit.models.structure import is_linear
from qtoolkit.records import OnProgress, Plan
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.independent_run import quantize_each_block
from qtoolkit.stream.journal import DoneBlock, JournalLocation
from qtoolkit.stream.run import quantize_blocks
from qtoolkit.stream.sharded_run import ThisProcess, quantize_in_shards
from qtoolkit.stream.token_weights import token_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.noted import Noted
    from qtoolkit.stream.shards import Workers

# The tokens that the reported perplexity is measured on: enough to show whether the text suits the model.
_PERPLEXITY_SAMPLES = 2
PERPLEXITY_TOKENS = 256
# Rows of logits that are in float32 at one time: a large vocabulary makes each a megabyte.
LOSS_ROWS = 32


def quantize(
    checkpoint: Checkpoint,
    config: GPTQ,
    plan: Plan,
    on_progress: OnProgress,
    location: JournalLocation | None,
    workers: "Workers | None" = None,
) -> Outcome:
    """See `Method.quantize`."""
    names = {layer.name: str(config.of(layer.name).bits) for layer in plan.layers}
    begun = begin(
        checkpoint,
        config,
        {"method": config.method, **config.to_file()},
        names,
        device=plan.device,
        location=location,
        absent=config.absent(),
        on_progress=on_progress,
    )
    tokens = begun.text.tokens
    # Of the tokens that there are: a text may have fewer than were asked for.
    count, length = tokens.shape
    notes = [*begun.notes, *METHOD.notes(replace(config, num_samples=count, seq_len=length), plan.layers)]
    notes.extend(begun.text.notes)
    if config.engine == "optimum":
        outcome = optimum.quantize(checkpoint, config, plan, begun.text)
        return outcome._replace(notes=[*notes, *begun.journal.notes, *outcome.notes])
    streamed = StreamedModel(checkpoint, device=plan.device, dtype=begun.dtype, quantized=names)
    layers = streamed.names_by_block([*names])
    is_weighed = config.token_weights and any(layers)
    weights = token_weights(streamed, layers, tokens, begun.journal, on_progress) if is_weighed else {}
    method = GPTQBlocks(config, plan.device, checkpoint.dtype)
    if config.shards > 1 or not config.propagate:
        # Without its text, which workers do not read.
        method = GPTQBlocks(replace(config, calibration=GPTQ.calibration), plan.device, checkpoint.dtype)
        run = quantize_in_shards if config.propagate else quantize_each_block
        blocks = run(
            streamed,
            layers,
            tokens,
            method,
            begun.journal,
            on_progress,
            weights,
            num_shards=min(config.shards, count),
            workers=workers or ThisProcess(checkpoint),
        )
    else:
        states = where_states_wait(plan)
        blocks = quantize_blocks(streamed, layers, tokens, method, begun.journal, on_progress, weights, states=states)
    notes.extend(begun.journal.notes)
    give_memory_back()
    loaded = _load(checkpoint, streamed, config, plan, blocks)
    model = loaded.value
    footprint = memory_footprint(model)
    perplexity = _perplexity(model, tokens[:_PERPLEXITY_SAMPLES, :PERPLEXITY_TOKENS])
    report = report_of(begun, blocks, damp_percent=config.damp_percent, perplexity=perplexity)
    give_memory_back()
    notes.extend(config.stored_as.measured_notes(model))
    notes = [*notes, *note_on_unseen(report.layers), *note_on_few(report.layers)]
    return Outcome(model, report, [*notes, *loaded.notes], footprint=footprint)


def _load(
    checkpoint: Checkpoint, streamed: StreamedModel, config: GPTQ, plan: Plan, blocks: list[DoneBlock]
) -> "Noted[PreTrainedModel]":
    """Load the model of the quantized layers and all other tensors like any checkpoint of the format."""
    in_blocks = tuple(f"{name}." for name in streamed.block_names)
    quantized = {f"{layer.name}.weight" for layer in plan.layers if layer.name.startswith(in_blocks)}
    gone = {key for key, name in streamed.name_of.items() if name in quantized}
    named = {name: key.removesuffix(".weight") for key, name in streamed.name_of.items()}
    done = {_in_file(key, named): tensor for block in blocks for key, tensor in block.tensors.items()}
    embeddings, without = {}, set(gone)
    for layer in plan.layers:
        if layer.name.startswith(in_blocks):
            continue
        name = named[f"{layer.name}.weight"]
        weight = streamed.tensors[f"{name}.weight"][...]
        own = config.for_embeddings(weight.shape[1])
        with storing(layer.name):
            tensors = quantize_embedding(weight, own, dtype=checkpoint.dtype, device=plan.device)
        done.update({f"{name}.{key}": tensor for key, tensor in tensors.items()})
        # A head that is tied to it has its codes.
        tied = checkpoint.skeleton.all_tied_weights_keys.items()
        tied_heads = [target.removesuffix(".weight") for target, source in tied if source == f"{layer.name}.weight"]
        embeddings.update(dict.fromkeys((name, *tied_heads), own))
        without.update(f"{one}.weight" for one in (name, *tied_heads))
    rest = {key: tensor for key, tensor in streamed.tensors.items() if key not in without}
    left = [
        key.removesuffix(".weight")
        for key, tensor in rest.items()
        if len(tensor.shape) == 2 and streamed.name_of[key].startswith(in_blocks) and key.endswith(".weight")
    ]
    bits = {key.removesuffix(".weight"): config.of(streamed.name_of[key].removesuffix(".weight")).bits for key in gone}
    linear = [name for name, module in checkpoint.skeleton.named_modules() if is_linear(module)]
    heads = {named.get(f"{name}.weight", name): name for name in linear if not name.startswith(in_blocks)}
    left_heads = {stored: name for stored, name in heads.items() if stored not in embeddings}
    # Some readers look for a layer by its name in the file, others by that in the model.
    planned = [layer.name for layer in plan.layers]
    outside = {*left_heads, *left_heads.values(), *experts_in_one_tensor(checkpoint.skeleton, planned)}
    described = config.stored_as.describe(config, bits, left, outside, embeddings)
    result = replace(checkpoint, tensors={**rest, **done}, expand=None)
    return config.stored_as.load(result, described, device=plan.device)


def _in_file(tensor: str, named: Mapping[str, str]) -> str:
    """Return the name of a layer's tensor beside the layer's bias, where the file has another name for the layer.

    Args:
        tensor: its full name in the model.
        named: names of weights in the model, and of their layers in the file.
    """
    layer, _, name = tensor.rpartition(".")
    return f"{named.get(f'{layer}.weight', layer)}.{name}"


def _perplexity(model: "PreTrainedModel", tokens: torch.Tensor) -> float:
    """Return exp of the mean negative log-likelihood of all tokens but the first of each sample."""
    # One sample at a time: its logits are freed before the next ones are computed.
    with torch.no_grad(), eval_mode(model):
        losses = [_losses(model, sample) for sample in tokens.to(model.device)]
    return torch.cat(losses).mean().exp().item()


def _losses(model: "PreTrainedModel", sample: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood of each token of a sample but the first, float32 [tokens - 1]."""
    logits = model(sample[None], use_cache=False).logits[0, :-1]
    parts = zip(logits.split(LOSS_ROWS), sample[1:].split(LOSS_ROWS), strict=True)
    return torch.cat(
        [torch.nn.functional.cross_entropy(part.float(), targets, reduction="none") for part, targets in parts]
    )
