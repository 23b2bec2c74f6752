"""Run a GPTQ job: read the calibration text, quantize block by block, load the resulting model."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.layer_values import largest
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods.gptq import GPTQ, METHOD, optimum
from qtoolkit.methods.gptq.embeddings import quantize_embedding
from qtoolkit.methods.gptq.layer_groups import GPTQBlocks
from qtoolkit.methods.method import Outcome
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.eval_mode import eval_mode
from qtoolkit.models.structure import is_linear
from qtoolkit.records import CalibrationReport, LayerError, OnProgress, Plan, ignore_progress
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.journal import DoneBlock, Journal, JournalLocation
from qtoolkit.stream.loading import calibration_dtype, load_streamed
from qtoolkit.stream.run import quantize_blocks
from qtoolkit.stream.token_weights import token_weights
from qtoolkit.texts.calibration_text import Calibration, bounded, make_calibration, read_calibration
from qtoolkit.texts.overlap import sketch
from qtoolkit.texts.self_calibration import self_calibration
from qtoolkit.texts.texts import is_self

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.noted import Noted

# The tokens that the reported perplexity is measured on: enough to show whether the text suits the model.
_PERPLEXITY_SAMPLES = 2
PERPLEXITY_TOKENS = 256
# Layers without tokens that a note names.
_NAMED = 3
# Rows of logits that are in float32 at one time: a large vocabulary makes each a megabyte.
LOSS_ROWS = 32


def quantize(
    checkpoint: Checkpoint, config: GPTQ, plan: Plan, on_progress: OnProgress, location: JournalLocation | None
) -> Outcome:
    """See `Method.quantize`."""
    dtype = calibration_dtype(plan.device, checkpoint.dtype)
    notes = []
    if dtype != checkpoint.dtype:
        notes.append(f"calibrated in {dtype}, since {checkpoint.dtype} is slow or missing on this processor")
    text = None if is_self(config.calibration) else _read_text(checkpoint, config, on_progress)
    names = [layer.name for layer in plan.layers]
    journal = Journal(location, _fingerprint_inputs(checkpoint, config, text, names, dtype), absent=config.absent())
    text = text or _written_text(checkpoint, config, journal, plan.device, dtype, on_progress)
    # Of the tokens that there are: a text may have fewer than were asked for.
    count, length = text.tokens.shape
    notes.extend(METHOD.notes(replace(config, num_samples=count, seq_len=length), plan.layers))
    notes.extend(text.notes)
    if config.engine == "optimum":
        outcome = optimum.quantize(checkpoint, config, plan, text)
        return outcome._replace(notes=[*notes, *journal.notes, *outcome.notes])
    streamed = StreamedModel(checkpoint, device=plan.device, dtype=dtype)
    layers = streamed.names_by_block(names)
    is_weighed = config.token_weights and any(layers)
    weights = token_weights(streamed, layers, text.tokens, journal, on_progress) if is_weighed else {}
    method = GPTQBlocks(config, plan.device, checkpoint.dtype)
    blocks = quantize_blocks(streamed, layers, text.tokens, method, journal, on_progress, weights)
    notes.extend(journal.notes)
    give_memory_back()
    loaded = _load(checkpoint, streamed, config, plan, blocks)
    model = loaded.value
    report = CalibrationReport(
        text=text.name,
        num_samples=len(text.tokens),
        seq_len=text.tokens.shape[1],
        perplexity=_perplexity(model, text.tokens[:_PERPLEXITY_SAMPLES, :PERPLEXITY_TOKENS]),
        damp_percent=config.damp_percent,
        layers=tuple(LayerError(name, **facts) for block in blocks for name, facts in block.facts.items()),
        resumed=journal.resumed,
        sketch=sketch(text.tokens),
        fingerprint=text.fingerprint,
        text_check=text.checked,
    )
    give_memory_back()
    notes = [*notes, *config.stored_as.measured_notes(model), *_unseen(report.layers)]
    return Outcome(model, report, [*notes, *loaded.notes])


def _unseen(layers: tuple[LayerError, ...]) -> list[str]:
    """Return a note on the layers that no token reached, such as those of an expert that was never chosen."""
    names = [layer.name for layer in layers if not layer.num_inputs]
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    count = f"{len(names)} of {len(layers)} layers ({', '.join(names[:_NAMED])}{more})"
    return [f"no token reached {count}, which were rounded to the nearest code: give more samples, or other text"]


def _read_text(checkpoint: Checkpoint, config: GPTQ, on_progress: OnProgress) -> Calibration:
    """Return the tokens of the calibration text that the config names."""
    text = read_calibration(
        checkpoint,
        config.calibration,
        num_samples=config.num_samples,
        seq_len=config.seq_len,
        column=config.calibration_column,
        on_progress=on_progress,
    )
    give_memory_back()
    return text


def _written_text(
    checkpoint: Checkpoint, config: GPTQ, journal: Journal, device: str, dtype: torch.dtype, on_progress: OnProgress
) -> Calibration:
    """Return text that the model writes, from the journal if it has some.

    The journal stores it because another number of threads would give another text.
    """
    limits = checkpoint.config.get_text_config(decoder=True)
    length, _ = bounded(config.seq_len, largest(limits, "max_position_embeddings"))

    def fits(tokens: StoredTensor | torch.Tensor) -> bool:
        if (tuple(tokens.shape), tokens.dtype) != ((config.num_samples, length), torch.int64):
            return False
        values = tokens[...]
        return bool(((values >= 0) & (values < limits.vocab_size)).all())

    tokens = journal.read_tokens(fits)
    if tokens is not None:
        return make_calibration(tokens, "self", ["calibrated with what the model wrote when the job was begun"])
    # The only step that needs the whole model in memory in full precision.
    model = load_streamed(replace(checkpoint, dtype=dtype), None, device=device, on_progress=ignore_progress).value
    text = self_calibration(
        model, checkpoint.tokenizer, num_samples=config.num_samples, seq_len=config.seq_len, on_progress=on_progress
    )
    journal.write_tokens(text.tokens)
    return text


def _fingerprint_inputs(
    checkpoint: Checkpoint, config: GPTQ, text: Calibration | None, names: list[str], dtype: torch.dtype
) -> Mapping[str, Any]:
    """Return everything that the codes depend on; a journal with other values is refused, naming the difference."""
    return {
        "method": config.method,
        **config.to_file(),
        "commit_hash": checkpoint.commit_hash,
        "weights": checkpoint.fingerprint(),
        "calibration text": text.fingerprint if text else "written by the model",
        # In order and with each layer's bits: rules compare equal as a dict whatever their order.
        "layers": hashlib.sha256("\n".join(f"{name} {config.of(name).bits}" for name in names).encode()).hexdigest(),
        "dtype": str(dtype),
    }


def _load(
    checkpoint: Checkpoint, streamed: StreamedModel, config: GPTQ, plan: Plan, blocks: list[DoneBlock]
) -> "Noted[PreTrainedModel]":
    """Load the model of the quantized layers and all other tensors like any checkpoint of the format."""
    in_blocks = tuple(f"{name}." for name in streamed.block_names)
    quantized = {f"{layer.name}.weight" for layer in plan.layers if layer.name.startswith(in_blocks)}
    gone = {key for key, name in streamed.name_of.items() if name in quantized}
    done = {key: tensor for block in blocks for key, tensor in block.tensors.items()}
    named = {name: key.removesuffix(".weight") for key, name in streamed.name_of.items()}
    embeddings, without = {}, set(gone)
    for layer in plan.layers:
        if layer.name.startswith(in_blocks):
            continue
        name = named[f"{layer.name}.weight"]
        weight = streamed.tensors[f"{name}.weight"][...]
        own = config.for_embeddings(weight.shape[1])
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
    outside = {*left_heads, *left_heads.values()}
    described = config.stored_as.describe(config, bits, left, outside, embeddings)
    result = replace(checkpoint, tensors={**rest, **done}, expand=None)
    return config.stored_as.load(result, described, device=plan.device)


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
