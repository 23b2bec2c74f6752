"""Describe what a model does: the ids that its tokenizer makes, how it generates, and its logits on a few tokens.

The job that made a model describes it by these functions, and so does a fresh process, which runs this file by its
path. The file imports nothing of qtoolkit unless the request says so: what plain transformers reads must not be read
with qtoolkit's help.
"""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedModel

# Written for this purpose: prose, other scripts, code, digits, blanks and a combined emoji are cut differently.
TEXTS = (
    (
        "The lighthouse keeper wrote a letter to her sister, who lived in a small town far from the sea, and told her "
        "that the winter had been long, that the boats had come home late, and that she would visit in spring."
    ),
    "Größere Bücher kosten 12,50 €; naïve café, žluťoučký kůň, İstanbul.",
    "Привет, мир! 你好世界。こんにちは 안녕하세요 שלום مرحبا नमस्ते",
    "def f(x):\n    return {'a': [x ** 2, 0x1F]}  # done\n\n\tif x != 1_000: pass\r\n",
    "1234567890 3.14159 10,000 2026-01-01 e=mc^2   three   blanks",
    "👩‍👩‍👧 🎉 \u00a0\u200b end",
)
PROBE_TOKENS, PROBE_POSITIONS = 32, 2
TOP = 32
# How torch says in a plain RuntimeError that main memory ran out, and how the system does when it maps a file.
_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "not enough memory")
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Return the fields of the record `Behaviour` that are a tokenizer's: of fixed texts and its template, the SHA-256.

    `special_tokens` are the tokens with their ids.
    """
    if tokenizer is None:
        return {"token_ids": None, "chat_template": None, "special_tokens": {}}
    token_ids = _digest([tokenizer(text).input_ids for text in TEXTS])
    # The text, since what it renders may hold today's date.
    template = getattr(tokenizer, "chat_template", None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if name in _SPECIAL}
    return {
        "token_ids": token_ids,
        "chat_template": None if template is None else _digest(template),
        "special_tokens": {name: f"{text} ({tokenizer.convert_tokens_to_ids(text)})" for name, text in special.items()},
    }


def describe_generation(config: "GenerationConfig | None") -> dict[str, Any] | None:
    """Return the entries of a generation config that are not the default; None where there is no config."""
    if config is None:
        return None
    # False and absent mean the same, and versions of transformers differ in which of them they write.
    values = {name: value for name, value in config.to_diff_dict().items() if value is not None and value is not False}
    for name in ("transformers_version", "_from_model_config"):
        values.pop(name, None)
    described: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return described


def probe_tokens(tokenizer: Any, vocab_size: int) -> list[int]:
    """Return the ids on which logits are measured: of a fixed text, or spread over the vocabulary without a tokenizer.

    Args:
        tokenizer: of the model; None for none.
        vocab_size: ids from this on are left out.
    """
    ids: list[int] = tokenizer(TEXTS[0]).input_ids if tokenizer is not None else []
    known = [token for token in ids if token < vocab_size][:PROBE_TOKENS]
    return known or [2 + 7919 * index % (vocab_size - 2) for index in range(PROBE_TOKENS)]


def probe(model: "PreTrainedModel", token_ids: list[int]) -> dict[str, Any]:
    """Measure logits of a model on a few tokens; returns and raises as `probe_of`."""
    return probe_of(_forward(model, token_ids), token_ids, str(model.device))


def probe_of(logits: "Tensor", token_ids: list[int], device: str) -> dict[str, Any]:
    """Return the fields of the record `Probe` of logits float32 [tokens, vocabulary], which were computed already.

    Raises:
        ValueError: logits are not finite.
    """
    if not logits.isfinite().all():
        raise ValueError("logits hold NaN or infinity")
    last = logits[-PROBE_POSITIONS:]
    top = last.topk(min(TOP, last.shape[-1]))
    return {
        "token_ids": token_ids,
        "loss": _loss(logits, token_ids),
        "top_ids": top.indices.tolist(),
        "top_logits": top.values.tolist(),
        "std": last.std(dim=-1).tolist(),
        "device": device,
    }


def logits_at(model: "PreTrainedModel", token_ids: list[int], wanted: list[list[int]]) -> dict[str, Any]:
    """Return `logits` of the last positions at the ids of an earlier probe, and `loss`.

    Args:
        model: any causal language model.
        token_ids: the tokens.
        wanted: of each of the last positions, the ids whose logits are returned.
    """
    logits = _forward(model, token_ids)
    rows = logits[-len(wanted) :]
    return {
        "loss": _loss(logits, token_ids),
        "logits": [row[ids].tolist() for row, ids in zip(rows, wanted, strict=False)],
    }


def _forward(model: "PreTrainedModel", token_ids: list[int]) -> "Tensor":
    """Return logits float32 [tokens, vocabulary]."""
    import torch

    tokens = torch.tensor([token_ids], device=model.device)  # [1, tokens]
    with torch.no_grad(), _as_stored(model), _own_forward(model):
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits[0].float()  # [tokens, vocabulary]
    return logits


def _loss(logits: "Tensor", token_ids: list[int]) -> float:
    """Return the mean negative log-likelihood of tokens 2 to last, given logits [tokens, vocabulary]."""
    import torch

    following = torch.tensor(token_ids[1:], device=logits.device)  # [tokens - 1]
    return torch.nn.functional.cross_entropy(logits[:-1], following).item()


@contextmanager
def _own_forward(model: "PreTrainedModel") -> Iterator[None]:
    """Let a model run its class's `forward`: qtoolkit replaces it on some processors, which readers do not.

    Hooks of the call run as ever: the package compressed-tensors expands the codes in one.
    """
    replaced = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if replaced is not None:
            model.forward = replaced


@contextmanager
def _as_stored(model: "PreTrainedModel") -> Iterator[None]:
    """Keep bitsandbytes from packing 4-bit layers anew at their first product on a CPU, which takes longer than that.

    bitsandbytes 0.50 leaves layers that train as they are (nn/modules.py, `Linear4bit.forward`); they have no dropout.
    """
    layers = [layer for layer in model.modules() if type(layer).__name__ == "Linear4bit" and not layer.training]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def _attempt(step: Callable[[], Any]) -> tuple[Any, str]:
    """Return what a step returns, or None and why it failed: damaged files make transformers raise anything.

    Raises:
        MemoryError: memory ran out, of a processor or a GPU, which says nothing of a folder.
    """
    import torch

    try:
        return step(), ""
    except Exception as error:  # the tokenizers library raises bare Exceptions, too
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in _NO_MEMORY):
            raise MemoryError from error
        return None, _first_line(error)


def describe_folder(folder: Path) -> dict[str, Any]:
    """Describe the tokenizer and the generation config of a folder.

    Returns:
        The fields of the record `Behaviour`; `tokenizer_error` and `generation_error` say why one cannot be read.
    """
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer, tokenizer_error = _attempt(
        lambda: describe_tokenizer(
            AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        )
    )
    has_config = (folder / "generation_config.json").is_file()
    generation, generation_error = _attempt(
        lambda: describe_generation(GenerationConfig.from_pretrained(folder) if has_config else None)
    )
    others = {"generation": generation, "tokenizer_error": tokenizer_error, "generation_error": generation_error}
    return (tokenizer or describe_tokenizer(None)) | others


def describe_model(
    folder: Path, device: str, token_ids: list[int], wanted: list[list[int]], *, auto_class: str
) -> dict[str, Any]:
    """Load the model of a folder, and return its class, the keys that do not fit, and its logits.

    Args:
        folder: holds the model.
        device: where to load it, "cpu" or "cuda:0".
        token_ids, wanted: as for `logits_at`; without any tokens, `probe_tokens` chooses them.
        auto_class: of transformers, which opens it; empty for a file that it does not read whole, and qtoolkit does.

    Returns:
        `model`, `keys`, `shapes` of 4-bit layers, `loss` and `logits`; or, in `model_error`, why there are none.
    """

    def run() -> dict[str, Any]:
        model, keys = (
            _load_by_transformers(folder, device, auto_class) if auto_class else _load_by_qtoolkit(folder, device)
        )
        ids = token_ids or probe_tokens(None, model.config.get_text_config().vocab_size)
        layers = ((name, one) for name, one in model.named_modules() if type(one).__name__ == "Linear4bit")
        shapes = {name: [layer.out_features, layer.in_features] for name, layer in layers}
        return {"model": type(model).__name__, "keys": keys, "shapes": shapes, **logits_at(model, ids, wanted)}

    values, error = _attempt(run)
    return {"model": "", "keys": {}, "shapes": {}, "loss": None, "logits": [], **(values or {}), "model_error": error}


def _load_by_transformers(folder: Path, device: str, auto_class: str) -> tuple[Any, dict[str, list[str]]]:
    """Return a model, and the keys that do not fit by how they do not."""
    import transformers

    model, info = getattr(transformers, auto_class).from_pretrained(
        folder,
        device_map={"": device},
        dtype="auto",
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    return model, {name: sorted(map(str, keys)) for name, keys in info.items() if keys}


def _load_by_qtoolkit(folder: Path, device: str) -> tuple[Any, dict[str, list[str]]]:
    """Return a model; one whose keys do not fit is refused."""
    return importlib.import_module("qtoolkit").load(folder, device=device).model, {}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return all that a request asks of a folder; `base` is None, which `answer_base` describes.

    Args:
        request: `folder`; `device`; `auto_class`, as for `describe_model`; `token_ids` and `top_ids` of the probe;
            `llama_cpp`, the file that llama.cpp shall run instead, where there is such an entry.

    Raises:
        MemoryError: memory ran out.
    """
    import transformers

    folder = Path(request["folder"])
    if "llama_cpp" in request:
        return run_in_llama_cpp(folder / request["llama_cpp"], request["token_ids"])
    described = {"transformers": transformers.__version__, **describe_folder(folder), "base": None}
    wanted = request["top_ids"]
    return described | describe_model(
        folder, request["device"], request["token_ids"], wanted, auto_class=request["auto_class"]
    )


def run_in_llama_cpp(file: Path, token_ids: list[int]) -> dict[str, Any]:
    """Run a `.gguf` file with llama.cpp, tokens in and logits out.

    Args:
        file: the file.
        token_ids: as for `logits_at`; without any tokens, `probe_tokens` chooses them.

    Returns:
        `loss`, in `model_error` why there is none, and `base`, None.
    """
    import torch

    def run() -> dict[str, Any]:
        with importlib.import_module("qtoolkit.evaluation.llama_cpp").LlamaCppModel(file) as model:
            tokens = torch.tensor([token_ids or probe_tokens(None, model.vocab_size)])  # [1, tokens]
            logits = model.logits(tokens)[0]  # [tokens, vocabulary]
        if not logits.isfinite().all():
            raise ValueError("logits hold NaN or infinity")
        return {"loss": _loss(logits, tokens[0].tolist())}

    values, error = _attempt(run)
    return {"loss": None, "base": None, **(values or {}), "model_error": error}


def answer_base(folder: Path) -> dict[str, Any]:
    """Describe the tokenizer and the generation config of a base; or return `error`, where memory ran out."""
    try:
        return describe_folder(folder)
    except MemoryError as error:
        return {"error": _first_line(error.__cause__ or error)}


def main() -> None:
    """Answer the request in a file, and write the answer to another file; both are named on the command line.

    The answer is written before the base is opened, and once more with the base: whatever the base does to this
    process, what is known of the folder is written.
    """
    request_file, answer_file = map(Path, sys.argv[1:])
    request = json.loads(request_file.read_text(encoding="utf-8"))
    if request["with_qtoolkit"]:
        # Registers our layers with transformers.
        importlib.import_module("qtoolkit")
    try:
        values = answer(request) | {"no_memory": ""}
    except MemoryError as error:
        values = {"no_memory": _first_line(error.__cause__ or error)}
    _write_at_once(answer_file, values)
    if request["base"] and not values["no_memory"]:
        _write_at_once(answer_file, values | {"base": answer_base(Path(request["base"]))})


def _write_at_once(file: Path, values: dict[str, Any]) -> None:
    """Write a file as JSON such that it is never seen in part, since another process waits for it."""
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps(values), encoding="utf-8")
    beside.replace(file)


def _digest(value: Any) -> str:
    """Return the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _first_line(error: BaseException) -> str:
    """Return the class and the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


if __name__ == "__main__":
    main()
