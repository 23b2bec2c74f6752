"""Names and numbers by which a `.gguf` file describes a vocabulary."""

import re

# Types of tokens, `enum llama_token_type` of llama.cpp.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# What SentencePiece writes for a space.
SPACE = "\u2581"
# The number of each special token; llama.cpp's converter misspells one.
SPECIAL_KEYS = {
    kind: f"tokenizer.ggml.{stored}_token_id"
    for kind, stored in (
        ("bos", "bos"),
        ("eos", "eos"),
        ("unk", "unknown"),
        ("sep", "seperator"),
        ("pad", "padding"),
        ("cls", "cls"),
        ("mask", "mask"),
    )
}
# The chat template, and the names of further ones, each of which has a key of its own.
TEMPLATE_KEY, TEMPLATES_KEY = "tokenizer.chat_template", "tokenizer.chat_templates"
# Texts and arrays that are longer than other values of a header.
WHOLE_KEYS = frozenset(
    [
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.scores",
        TEMPLATE_KEY,
    ]
)
# A name for which llama.cpp looks up tokens of Phi-3, and refuses the file where one is missing (`llama-vocab.cpp`).
PHI3 = re.compile("phi-?3", re.IGNORECASE)
PHI3_TOKENS = ("</s>", "<unk>", "<s>", "<|endoftext|>")


def strips_blanks_after(name: str, token: str) -> bool:
    """Check whether llama.cpp drops blanks after an added token, which it does by the model's name alone.

    Args:
        name: of the model, in the header.
        token: the text of the token.
    """
    return bool(PHI3.search(name)) and token not in PHI3_TOKENS[1:]
