"""Let llama.cpp's own converter write small models in F16, and store the tensors and the values of its files.

Run by hand, `python -m tests.data.llama_cpp.convert_models FOLDER`, with the folder of llama.cpp's sources, which lies
in the source distribution of llama-cpp-python under `vendor`: `converted.json` was written with that of 0.3.36.
Tokenizers are left out, since those of most of these models are not at hand. The tests compare with it, and need no
llama.cpp.
"""

import json
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.formats.gguf.small_models import SMALL, small_model


def converted(title: str, folder: Path) -> dict[str, Any]:
    """Return what the converter writes of a model: each tensor's type, shape and hash, and the values."""
    import gguf
    from conversion import get_model_class

    model = small_model(title)
    model.config.n_ctx = getattr(model.config, "n_positions", None)
    model.save_pretrained(folder)
    # Of Gemma 3 it counts the tokens.
    tokens = {"model": {"vocab": dict.fromkeys(map(str, range(model.config.vocab_size)))}, "added_tokens": []}
    Path(folder, "tokenizer.json").write_text(json.dumps(tokens), encoding="utf-8")
    known = get_model_class(type(model).__name__)
    kind = type(known.__name__, (known,), {"model_arch": known.model_arch, "set_vocab": lambda _: None})
    kind(folder, gguf.LlamaFileType.MOSTLY_F16, folder / "model.gguf", model_name="small").write()
    file = gguf.GGUFReader(folder / "model.gguf")
    return {
        "tensors": {
            tensor.name: [
                tensor.tensor_type.name,
                [int(size) for size in reversed(tensor.shape)],
                sha256(tensor.data.tobytes()).hexdigest()[:16],
            ]
            for tensor in file.tensors
        },
        "values": {
            key: value.contents() for key, value in file.fields.items() if not key.startswith(("GGUF.", "tokenizer."))
        },
    }


def main() -> None:
    """Write `converted.json` beside this file."""
    found = {}
    for title in SMALL:
        with tempfile.TemporaryDirectory() as folder:
            found[title] = converted(title, Path(folder))
    Path(__file__).with_name("converted.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/gguf-py"]
    main()
