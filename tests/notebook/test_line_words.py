"""An error on a magic's line calls options as the line does; calls in Python, keys of files and bodies stay."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit.notebook.line_words import in_words_of_line
from qtoolkit.notebook.magic_errors import MagicError


@pytest.mark.parametrize(
    ("magic", "before", "after"),
    [
        ("quantize", "GPTQ: seq_len must be at least 1", "GPTQ: --seq-len must be at least 1"),
        ("quantize", "give overwrite=True to replace it", "give --overwrite to replace it"),
        ("quantize", "or give resume=False to drop it", "or give --no-resume to drop it"),
        ("quantize", "give sym=True, or format='mlx'", "give --sym, or --format mlx"),
        ("quantize", "give group_size=128 or bits=4", "give --group-size 128 or --bits 4"),
        ("quantize", "for_='vllm': leave for_ out", "--for vllm: leave --for out"),
        ("quantize", "leave order='in order'", "leave --order 'in order'"),
        ("qpublish", "is public already: give private=False", "is public already: give --public"),
        ("qconvert", "give lossy=True or format='mlx', format", "give --lossy or FORMAT mlx, format"),
        ("quantize", "give GPTQ(format='mlx', sym=True), bits=4", "give GPTQ(format='mlx', sym=True), --bits 4"),
        ("quantize", "no file a/seq_len=5/b or 'seq_len'", "no file a/seq_len=5/b or 'seq_len'"),
        ("quantize", "there is none: give tokenizer=", "there is none: give tokenizer="),
        ("quantize", "leave lossy out", "leave lossy out"),
        ("qeval", "give num_tokens=64 or group_size=32", "give --num-tokens 64 or group_size=32"),
        ("qconvert", "give lossy=True (minima are rounded)", "give --lossy (minima are rounded)"),
        ("quantize", "needs a token: `hf auth login`, or token=", "needs a token: `hf auth login`"),
        ("quantize", "log in with `hf auth login` or give token=", "log in with `hf auth login`"),
        ("qdoctor", "give overwrite=True", "give overwrite=True"),
        ("qplan", "machine must be one of t4, l4", "--machine must be one of t4, l4"),
        ("qconvert", "format must be one of gguf, mlx", "FORMAT must be one of gguf, mlx"),
        ("quantize", "Some text must be there", "Some text must be there"),
    ],
)
def test_options_are_called_as_on_the_line(magic: str, before: str, after: str) -> None:
    assert in_words_of_line(before, magic, has_body=False, names_options=True) == after


def test_keys_of_a_file_keep_their_names() -> None:
    message = "the GPTQ config has group_size 0: it must be -1"
    assert in_words_of_line(message, "quantize", has_body=False, names_options=False) == message


def test_options_in_a_body_are_written_as_there() -> None:
    message = "GPTQ: group_size must be 32, or leave for_ out"
    said = in_words_of_line(message, "quantize", has_body=True, names_options=True)
    assert said == "GPTQ: group_size must be 32, or leave --for out"


def test_a_line_fails_in_its_own_words(shell: InteractiveShell) -> None:
    with pytest.raises(MagicError, match=r"GPTQ: --seq-len must"):
        shell.run_line_magic("quantize", "m --method gptq --seq-len -3")
