"""Quantize one small model by each method, save, load and compare: what stands in a cell of the coverage's table."""

import gc
import logging
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from scripts.small_models import HIDDEN, VOCABULARY, small_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    import qtoolkit as qt

BUILT = "model"
# The group's size divides every small model's.
_GROUP = 32
_TOKENS = 32
# Percent of the weights: where fewer are quantized, the plan must have told why.
_MOST = 90
# Logits of the same codes with so many times our error are not those of the codes.
_FURTHER = 2
# Method -> the share of the logits' deviation that its error may have: codes of 8 bits, and of 4.
METHODS = {"gptq": 0.6, "absmax": 0.15, "zero_point": 0.15, "nf4": 0.6, "fp4": 0.8, "int8": 0.25, "fp8": 0.4}
# Those that transformers makes by itself, bit for bit.
_BY_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}


@dataclass(frozen=True)
class Cell:
    """What became of a model and a method.

    Attributes:
        verdict: "done"; "refused" by the plan; "wrong" result; "crash", an error after the plan or one that is no
            refusal; for `BUILT`, "done" or "not built".
        share: of the weights of linear layers and experts that are quantized, in percent; without the output head.
        error: of the logits, as a share of their deviation.
        reason: why, where it is not done; or what was not compared.
    """

    verdict: str
    share: float | None = None
    error: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        share = "" if self.share is None else f" {self.share:.0f} %"
        error = "" if self.error is None else f" ({self.error:.3f})"
        return f"{self.verdict}{share}{error}{': ' if self.reason else ''}{self.reason}"


def cells_of(model_type: str, methods: Sequence[str]) -> Iterator[tuple[str, Cell]]:
    """Yield `BUILT` and each method with its cell, as they are found; a model that is not built has no others."""
    import torch
    import transformers

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    with TemporaryDirectory() as place:
        source = Path(place) / "source"
        try:
            model = small_model(model_type, dtype=torch.bfloat16)
            logits = _logits(model)
            model.save_pretrained(source)
        except Exception as error:  # noqa: BLE001  # the model's own code raises anything
            yield BUILT, Cell("not built", reason=_oneline(error))
            return
        yield BUILT, Cell("done") if logits.isfinite().all() else Cell("not built", reason="its logits are not finite")
        if not logits.isfinite().all():
            return
        weights = _linear_weights(model)
        del model
        for method in methods:
            yield method, _cell(source, method, logits, weights)
            gc.collect()


def _cell(source: Path, method: str, logits: "torch.Tensor", weights: int) -> Cell:
    """Return the cell of a saved model and a method."""
    import qtoolkit as qt
    from qtoolkit.errors import QToolkitError

    config = _config(method)
    output = source.parent / method
    try:
        qt.plan(source, config, device="cpu")
    except QToolkitError as error:
        return Cell("refused", reason=_oneline(error, source))
    except Exception as error:  # noqa: BLE001  # what this is to find
        traceback.print_exc()
        return Cell("crash", reason=f"plan: {_oneline(error, source)}")
    try:
        result = qt.quantize(source, config, output=output, device="cpu")
        return _compared(result, source, method, logits, weights)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return Cell("crash", reason=_oneline(error, source))
    finally:
        shutil.rmtree(output, ignore_errors=True)
        shutil.rmtree(output.with_name(f"{output.name}.partial"), ignore_errors=True)


def _compared(result: "qt.QuantizedModel", source: Path, method: str, logits: "torch.Tensor", weights: int) -> Cell:
    """Return the cell of a result: with its source, with itself loaded, and with transformers' own."""
    import torch

    import qtoolkit as qt

    share = 100 * sum(layer.num_weights for layer in result.report.layers) / weights
    assert result.path is not None
    ours = _logits(result.model)
    error = _error(ours, logits)
    cell = Cell("done", share=round(share, 1), error=round(error, 3), reason=_told(result, share))

    def wrong(reason: str) -> Cell:
        return replace(cell, verdict="wrong", reason=reason)

    memory = result.memory
    if memory.footprint_after != memory.predicted_footprint_after:
        return wrong(f"{memory.footprint_after} bytes in memory, {memory.predicted_footprint_after} predicted")
    if not error <= METHODS[method]:
        return wrong(f"its logits' error is {error:.3f} of their deviation")
    loaded = qt.load(result.path, device="cpu")
    if not torch.equal(_logits(loaded.model), ours):
        return wrong("loaded, its logits are others")
    return _beside_transformers(cell, result, method, source, ours, logits) if method in _BY_TRANSFORMERS else cell


def _told(result: "qt.QuantizedModel", share: float) -> str:
    """Return the plan's reasons for most of the weights that stay, where these are not few; empty otherwise."""
    if share >= _MOST:
        return ""
    stay: dict[str, int] = {}
    for layer in result.report.skipped:
        if len(layer.shape) > 1 and layer.skipped not in ("embedding", "norm", "excluded by name"):
            stay[layer.skipped] = stay.get(layer.skipped, 0) + layer.num_weights
    return f"told: {max(stay, key=lambda reason: stay[reason])}" if stay else "not told why"


def _beside_transformers(
    cell: Cell, result: "qt.QuantizedModel", method: str, source: Path, ours: "torch.Tensor", logits: "torch.Tensor"
) -> Cell:
    """Return the cell of a result that is right by itself, once it is compared with transformers' own."""
    import torch

    def noted(reason: str) -> Cell:
        return replace(cell, reason="; ".join(filter(None, (cell.reason, reason))))

    layers = {layer.name for layer in result.report.layers}
    try:
        theirs = _by_transformers(type(result.model), source, _BY_TRANSFORMERS[method])
    except Exception as failure:  # noqa: BLE001  # what transformers does not take cannot be compared
        return noted(f"not compared, transformers raises {_oneline(failure, source)}")
    # Parts beside the language model stay, other than in transformers, as long as nobody includes them; so do layers
    # that transformers itself saves and does not read again.
    ours_alone = ("no part of the language model", "files keep it", "find them again")
    beside = {layer.name for layer in result.report.skipped if any(why in layer.skipped for why in ours_alone)}
    difference = _unlike(theirs, result.model, layers, beside)
    if difference:
        return _where_theirs_runs(theirs, replace(cell, verdict="wrong", reason=difference), noted)
    if _taken(theirs).keys() != layers:
        return noted("codes are transformers' own; logits not compared, since it quantizes other layers too, or fewer")
    try:
        expected = _logits(theirs)
    except Exception as failure:  # noqa: BLE001  # bitsandbytes takes no such shapes on this processor
        return noted(f"logits not compared, those of transformers' own raise {_oneline(failure)}")
    return cell if torch.equal(ours, expected) else _beside_other_logits(cell, ours, expected, logits, noted)


def _beside_other_logits(
    cell: Cell, ours: "torch.Tensor", expected: "torch.Tensor", logits: "torch.Tensor", noted: Callable[[str], Cell]
) -> Cell:
    """Return that a cell whose logits are not transformers' is wrong, unless it is transformers that is.

    bitsandbytes multiplies packed weights with transposed inputs as they lie in memory; our layers do not let it.
    """
    theirs_error = _error(expected, logits)
    if theirs_error > _FURTHER * _error(ours, logits):
        return noted(f"codes are transformers' own; its logits are wrong, with an error of {theirs_error:.3f}")
    return replace(cell, verdict="wrong", reason="transformers' logits are others")


def _error(result: "torch.Tensor", logits: "torch.Tensor") -> float:
    """Return the error of logits as a share of the deviation of those in full precision."""
    return float((result - logits).norm() / (logits - logits.mean(-1, keepdim=True)).norm())


def _where_theirs_runs(theirs: "PreTrainedModel", wrong: Cell, noted: Callable[[str], Cell]) -> Cell:
    """Return that a cell is wrong, unless transformers' own result, which it differs from, does not run."""
    try:
        _logits(theirs)
    except Exception as failure:  # noqa: BLE001
        return noted(f"{wrong.reason}, and its own result raises {_oneline(failure)}")
    return wrong


def _by_transformers(kind: type["PreTrainedModel"], source: Path, options: Mapping[str, Any]) -> "PreTrainedModel":
    """Return a saved model as transformers quantizes it by itself; raises what that raises."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(**options, bnb_4bit_compute_dtype="bfloat16")
    return kind.from_pretrained(source, quantization_config=config, dtype="auto", device_map="cpu")


def _taken(theirs: "PreTrainedModel") -> dict[str, Any]:
    """Return the layers that transformers has quantized, by name."""
    kinds = ("Linear4bit", "Linear8bitLt")
    return {name: module for name, module in theirs.named_modules() if type(module).__name__ in kinds}


def _unlike(theirs: "PreTrainedModel", model: "PreTrainedModel", layers: set[str], beside: set[str]) -> str:
    """Return how the codes of a model differ from those of transformers; empty where it takes the same and more.

    Args:
        theirs, model: transformers' and ours.
        layers: that are quantized in ours.
        beside: that stay in ours, since they are no part of the language model.
    """
    import torch

    # Of layers that have run, these are the codes as they were before bitsandbytes packed them for the processor.
    own = model.state_dict()
    taken = {name: module for name, module in _taken(theirs).items() if name not in beside}
    left = sorted(taken.keys() - layers)
    if left:
        return f"transformers quantizes {left[0]} too ({len(left)} layers)"
    for name, module in taken.items():
        if not torch.equal(own[f"{name}.weight"], module.weight):
            return f"transformers has other codes in {name}"
    return ""


def _config(method: str) -> Any:
    import qtoolkit as qt

    configs: dict[str, Callable[[], Any]] = {
        "gptq": lambda: qt.GPTQ(group_size=_GROUP, calibration=_rows(), num_samples=2, seq_len=_TOKENS, refine=0),
        "absmax": qt.AbsMax,
        "zero_point": qt.ZeroPoint,
        "nf4": qt.NF4,
        "fp4": qt.FP4,
        "int8": qt.Int8,
        "fp8": qt.FP8,
    }
    return configs[method]()


def _rows() -> list[list[int]]:
    """Return tokens to calibrate with, none of them special."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randint(8, VOCABULARY // 2, (4, _TOKENS), generator=generator).tolist()


def _logits(model: "PreTrainedModel") -> "torch.Tensor":
    """Return the logits [tokens, vocabulary] of a text, in float32, as transformers computes them."""
    import torch

    tokens = torch.tensor(_rows()[-1:])  # [1, tokens]
    with torch.no_grad():
        logits: torch.Tensor = type(model).forward(model, input_ids=tokens, use_cache=False).logits[0].float()
    return logits


def _linear_weights(model: "PreTrainedModel") -> int:
    """Return how many weights the linear layers and experts of a model have, without output head and tied ones.

    A matrix for each expert is one tensor [experts, rows, columns] in some models, or [experts * rows, columns], and no
    layer. Other tensors of three dimensions are positions and convolutions.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    weights: dict[int, int] = {}
    for module in model.modules():
        if module is head or isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001
            continue
        linear = isinstance(module, nn.Linear | Conv1D)
        for name, parameter in module.named_parameters(recurse=False):
            of_experts = "expert" in type(module).__name__.lower() and parameter.ndim > 1 and "bias" not in name
            is_matrix = (linear and name == "weight") or (of_experts and parameter.shape[-1] >= HIDDEN // 4)
            if is_matrix and id(parameter) not in embedded:
                weights[id(parameter)] = parameter.numel()
    return max(1, sum(weights.values()))


def _oneline(error: BaseException, source: Path | None = None) -> str:
    """Return an error in one line, without the folder of this run."""
    text = " ".join(str(error).split())
    if source is not None:
        text = text.replace(str(source), "MODEL").replace(str(source.parent), "")
    return f"{type(error).__name__}: {text}"[:300]
