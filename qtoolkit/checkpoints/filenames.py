"""Name the files of a checkpoint; apart from what reads them, so that looking them up loads no torch."""

from fnmatch import fnmatchcase
from pathlib import PurePath

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# The config that auto-gptq reads of a GPTQ checkpoint; its early versions wrote no other.
QUANTIZE_CONFIG = "quantize_config.json"
# The `Receipt` that qtoolkit writes of a model that it made.
RECEIPT_FILE = "qtoolkit.json"
# The options of a tokenizer, and its chat template; transformers 4 may look for the template among the options.
TOKENIZER_CONFIG, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
# The config that peft writes beside an adapter's weights, and transformers looks for beside a model's.
ADAPTER_CONFIG = "adapter_config.json"
# The `AdapterReceipt` that qtoolkit writes beside an adapter that it computed.
ADAPTER_RECEIPT = "qtoolkit_adapter.json"
# How the names of temporary folders begin that hold the headers of a Hub model.
HEADERS_PREFIX = "qtoolkit-headers-"
# Weights of something else beside a model's: a second copy in another naming, an adapter.
OTHER_WEIGHTS = ("consolidated*", "adapter_*")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# How images, videos and sounds are prepared, and the chat template that older processors keep in JSON; what
# `ProcessorMixin.from_pretrained` of transformers 5.23 reads beside the tokenizer's files.
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
)
# What lies beside a model and holds for its copies, in lower case: licences, terms of use, and its processor.
_COMPANIONS = ("license*", "licence*", "copying*", "notice*", "use_policy*", *PROCESSOR_FILES)
_NO_TEXTS = (*PICKLE_SUFFIXES, ".safetensors", ".gguf", ".py", ".ipynb", ".sh", ".so", ".zip")


def is_companion(name: str) -> bool:
    """Check whether a file is a licence or something else that holds for copies of the model, by its name alone."""
    lower = name.lower()
    return not lower.endswith(_NO_TEXTS) and any(fnmatchcase(lower, pattern) for pattern in _COMPANIONS)


# What else a model's folder may hold, in lower case: weights, configs, tokenizers, a card, what the Hub and a file
# manager add.
_OF_MODELS = (
    *("*.safetensors", "*.gguf", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "modelfile", "*.modelfile"),
    *(f"*{suffix}" for suffix in PICKLE_SUFFIXES),
    *("readme.md", "frontier.svg", ".gitattributes", ".ds_store"),
)
_FOLDERS_OF_MODELS = (".cache", ".eval_results", "additional_chat_templates")


def is_model_file(name: str) -> bool:
    """Check whether a file or folder belongs to a model's folder, by its path in it alone.

    Example:
        >>> [name for name in ("model.safetensors", "thesis.txt", ".git/HEAD") if not is_model_file(name)]
        ['thesis.txt', '.git/HEAD']
    """
    first, *rest = PurePath(name).parts
    if first in _FOLDERS_OF_MODELS:
        return True
    return not rest and (is_companion(name) or any(fnmatchcase(name.lower(), pattern) for pattern in _OF_MODELS))
