"""Run a `.gguf` file with llama.cpp, as its users do, to get its logits; through llama-cpp-python."""

import ctypes
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, Self

import torch

from qtoolkit.errors import ConfigError, InsufficientMemoryError, ModelNotFoundError, SourceError
from qtoolkit.files import path_of
from qtoolkit.optional import optional

# Tokens that llama.cpp computes at once (its own default); it holds the logits of one such batch.
_BATCH = 512
_ERROR = 4  # GGML_LOG_LEVEL_ERROR of ggml.h


class LlamaCppModel:
    """Run a `.gguf` file with llama.cpp, on the CPU or GPU that it was built for.

    Its logits differ from those of transformers with the same weights: llama.cpp rounds the inputs of each product to
    8 bits (Q8_0, Q8_1 or Q8_K, by the type of the weight) and keys and values to float16.

    Example:
        >>> with LlamaCppModel("model.Q4_K_M.gguf") as model:
        ...     ids = torch.tensor([model.encode("The capital of France is")])
        ...     model.decode([int(model.logits(ids)[0, -1].argmax())])
        ' Paris'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a file; its weights are mapped into memory, and read on demand.

        Raises:
            ModelNotFoundError: there is no such file.
            SourceError: llama.cpp cannot read it.
            MissingDependencyError: llama-cpp-python is not installed.
        """
        self.path = path_of(path, "path")
        if not os.path.isfile(self.path):  # noqa: PTH113  # Path raises on a name that is too long
            raise ModelNotFoundError(f"{str(self.path)!r} is no file: name a .gguf file")
        self._library = optional("llama_cpp", f"running {self.path} with llama.cpp")
        self._handles = _Handles(self._library)
        # Also frees a model that is dropped without `close`, or lives until Python ends.
        self.close = weakref.finalize(self, self._handles.free)
        with _log_of(self._library) as errors:
            self._library.llama_backend_init()
            parameters = self._library.llama_model_default_params()
            # On an Intel processor with AMX, products with repacked weights end the process by a general protection
            # fault (libggml-cpu of llama-cpp-python 0.3.36).
            parameters.use_extra_bufts = False
            self._handles.model = self._library.llama_model_load_from_file(os.fsencode(self.path), parameters)
        if not self._handles.model:
            raise SourceError(f"llama.cpp cannot read {self.path} ({_reason(errors)}): name another .gguf file")
        self._vocabulary = self._library.llama_model_get_vocab(self._handles.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def vocab_size(self) -> int:
        """Return the number of tokens that the model knows, which is the number of columns of its logits."""
        return int(self._library.llama_vocab_n_tokens(self._vocabulary))

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Compute the logits of the next token after each token, with as many threads as torch uses.

        Each window is read on its own; no token is added before it.

        Args:
            ids: int64 [B, T].

        Returns:
            float32 [B, T, V] on the CPU.

        Raises:
            ConfigError: `ids` has another shape, or a token that the model does not know.
            InsufficientMemoryError: no memory for a context of T tokens.
            SourceError: llama.cpp fails on this file.
        """
        self._check(ids)
        batch_size, length = ids.shape
        logits = torch.empty(batch_size, length, self.vocab_size)
        with _log_of(self._library) as errors:
            context = self._handles.use_context(length)
            if not context:
                raise InsufficientMemoryError(
                    f"llama.cpp makes no context of {length} tokens ({_reason(errors)}): read fewer at once"
                )
            for window, out in zip(ids.int().cpu(), logits, strict=True):
                self._library.llama_memory_clear(self._library.llama_get_memory(context), True)
                for tokens, rows in zip(window.split(_BATCH), out.split(_BATCH), strict=True):
                    if not self._read(context, tokens, rows):
                        raise SourceError(f"llama.cpp cannot run {self.path} ({_reason(errors)}): name another file")
        return logits

    def _read(self, context: Any, tokens: torch.Tensor, rows: torch.Tensor) -> bool:
        """Read the next tokens of a window, int32 [n], and write their logits to `rows` [n, V]; false if that fails."""
        count = len(tokens)
        # llama.cpp counts the positions itself.
        batch = self._library.llama_batch(
            n_tokens=count,
            token=(ctypes.c_int32 * count)(*tokens.tolist()),
            logits=(ctypes.c_int8 * count)(*[1] * count),
        )
        if self._library.llama_decode(context, batch) != 0:
            return False
        ctypes.memmove(rows.data_ptr(), self._library.llama_get_logits(context), rows.nbytes)
        return True

    def _check(self, ids: torch.Tensor) -> None:
        if not self.close.alive:
            raise ConfigError(f"{self.path} was closed: open it again with LlamaCppModel")
        if ids.dtype != torch.int64 or ids.dim() != 2 or not ids.numel():
            kind = str(ids.dtype).removeprefix("torch.")
            raise ConfigError(f"logits takes int64 tokens of shape (windows, tokens), got {kind} {tuple(ids.shape)}")
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if len(wrong):
            raise ConfigError(
                f"{self.path} knows the tokens 0 to {self.vocab_size - 1}, got {int(wrong[0])}: use its own tokenizer"
            )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Tokenize a text with the tokenizer in the file.

        Args:
            text: the text; special tokens written in it are read as plain text.
            add_special_tokens: whether to add the tokens that begin or end every text of the model, such as a BOS.
        """
        raw = text.encode()
        # Every token takes at least a byte, except those added around the text.
        size = len(raw) + 8
        tokens = (ctypes.c_int32 * size)()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), tokens, size, add_special_tokens, False)
        return tokens[:count]

    def decode(self, tokens: list[int]) -> str:
        """Return the text of some tokens, without special ones."""
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        detokenize = partial(self._library.llama_detokenize, self._vocabulary, array, len(tokens))
        # Without a buffer, it returns the negative size of the text.
        size = -detokenize(None, 0, False, False)
        text = ctypes.create_string_buffer(max(size, 1))
        count = detokenize(text, size, False, False)
        return text.raw[:count].decode(errors="replace")


class _Handles:
    """Hold and free what llama.cpp allocates for a model; a separate object, so that `weakref.finalize` can free it."""

    def __init__(self, library: ModuleType) -> None:
        self.library = library
        self.model: Any = None
        self.context: Any = None
        self.length = 0

    def use_context(self, length: int) -> Any:
        """Return a context of `length` tokens, the last one if it has that length; None if memory does not suffice."""
        threads = torch.get_num_threads()
        if length != self.length:
            self._free_context()
            parameters = self.library.llama_context_default_params()
            parameters.n_ctx = length
            parameters.n_batch = min(length, _BATCH)
            self.context = self.library.llama_init_from_model(self.model, parameters)
            self.length = length if self.context else 0
        if self.context:
            self.library.llama_set_n_threads(self.context, threads, threads)
        return self.context

    def _free_context(self) -> None:
        if self.context:
            self.library.llama_free(self.context)
        self.context = None
        self.length = 0

    def free(self) -> None:
        """Free the context and the model; nothing happens the second time."""
        with _log_of(self.library):
            self._free_context()
            if self.model:
                self.library.llama_model_free(self.model)
            self.model = None


@contextmanager
def _log_of(library: ModuleType) -> Iterator[list[str]]:
    """Collect the errors that llama.cpp logs in a list, print nothing, and restore its log callback afterwards."""
    before = library.llama_log_callback()
    data = ctypes.c_void_p()
    library.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    errors: list[str] = []

    @library.llama_log_callback  # type: ignore[untyped-decorator]
    def collect(level: int, text: bytes, _: object) -> None:
        if level == _ERROR:
            errors.append(text.decode(errors="replace").strip())

    library.llama_log_set(collect, None)
    try:
        yield errors
    finally:
        library.llama_log_set(before, data)


def _reason(errors: list[str]) -> str:
    """Return the first error that llama.cpp logged, without the function name in it."""
    return errors[0].rpartition(": ")[2] if errors else "it gives no reason"
