"""Names and numbers by which a `.gguf` file describes a vocabulary."""

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
# Texts and arrays that are longer than other values of a header.
WHOLE_KEYS = frozenset(
    [
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.scores",
        "tokenizer.chat_template",
    ]
)
