"""Let llama.cpp's own code split odd texts in each way that it has a name of, and store the pieces.

Run by hand, `python -m tests.data.llama_cpp.split_texts FOLDER`, with the folder of llama.cpp's sources, which lies in
the source distribution of llama-cpp-python under `vendor`, and g++: `splits.json` was written with that of 0.3.36. The
patterns, and what goes with a name, are cut out of `llama-vocab.cpp`; `unicode.cpp` is compiled. The tests compare with
it, and need no llama.cpp.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TEXTS = (
    "The keeper wrote 12,50 letters in 1984, 1234567 of them.",
    "  two blanks,   three,\n\n two lines\r\n\ttab \n ",
    "I'm, you'Re, they'LL: don't!'s",
    "HTMLParser, camelCase and ALLCAPS; snake_case",
    "Größe naïve, déjà-vu; ﬁ ǅ Ω",
    "нещо на Български, 你好世界です 한국어 ไทย हिन्दी",
    "x**2 == {'a': [1.5, 2]} /* </p> */ #$%&\\`~^",
    "e\u0301 \u00b2\u00bd \u0663\u0664 \U0001f44d\U0001f3fd 1\ufe0f\u20e3\u3000。。",
    "3 33 333 3333 33333333 3.3 v2.0-rc1",
    "a\n\n\nb\r\n  c    d\t\te\u00a0f/\n/g",
    "IMGIMGABZ <sentinel:12> <|end|>",
    "\u1e21\u1f9dx, \u0111\u0110a",
    "a  5, \x9312 \u2160",
)
STORED = Path(__file__).with_name("splits.json")
_PREFIX = "LLAMA_VOCAB_PRE_TYPE_"
_CODE = r"""
#include "unicode.h"
#include <cstdio>
int main() {
    const std::vector<std::vector<std::string>> ways = {@WAYS@};
    const std::vector<std::string> texts = {@TEXTS@};
    for (const auto & way : ways) {
        for (const auto & text : texts) {
            for (const auto & piece : unicode_regex_split(text, way)) { printf(" %s", piece.c_str()); }
            printf("\n");
        }
    }
}
"""


def patterns(source: str) -> dict[str, str]:
    """Return the patterns of each way of splitting bytes, as C++ has them, by llama.cpp's name of the way."""
    found = {}
    labels: list[str] = []
    body = source[source.index("struct llm_tokenizer_bpe :") : source.index("struct llm_tokenizer_bpe_session")]
    for part in re.split(r"\bbreak;", body):
        labels = re.findall(rf"case {_PREFIX}(\w+):", part) or ["DEFAULT"]
        listed = re.search(r"regex_exprs = \{(.*?)\n\s*\};", part, re.DOTALL)
        if listed and "byte_encode = false" not in part:
            found |= dict.fromkeys(labels, f"{{{listed[1]}}}")
    return found


def ways_by_name(source: str) -> dict[str, dict[str, str | bool]]:
    """Return the way of each name, and what llama.cpp does besides for it."""
    found = {}
    start = source.index('tokenizer_pre == "default"')
    body = source[start : source.index("unknown pre-tokenizer type", start)]
    for part in re.split(r"\} else if \(", body):
        kind = re.search(rf"pre_type = {_PREFIX}(\w+);", part)
        for name in re.findall(r'tokenizer_pre == "([^"]+)"', part):
            assert kind is not None
            flags = {flag: f"{flag} = true" in part for flag in ("ignore_merges", "add_bos")}
            found[name] = {"way": kind[1], **flags}
    return found


def main() -> None:
    """Write `splits.json` beside this file."""
    folder = Path(sys.argv[1], "src")
    source = (folder / "llama-vocab.cpp").read_text(encoding="utf-8")
    known, names = patterns(source), ways_by_name(source)
    used = sorted({way["way"] for way in names.values()} & known.keys())
    texts = ",".join('"' + "".join(f"\\{byte:03o}" for byte in text.encode()) + '"' for text in TEXTS)
    code = _CODE.replace("@WAYS@", ",".join(known[way] for way in used)).replace("@TEXTS@", texts)
    with tempfile.TemporaryDirectory() as made:
        main_file, program = Path(made, "main.cpp"), Path(made, "split")
        main_file.write_text(code, encoding="utf-8")
        sources = [str(main_file), *(str(folder / name) for name in ("unicode.cpp", "unicode-data.cpp"))]
        subprocess.run(["g++", "-std=c++17", f"-I{folder}", *sources, "-o", str(program)], check=True)  # noqa: S607
        output = subprocess.run([str(program)], check=True, capture_output=True, text=True, encoding="utf-8").stdout
    lines = [line.strip() for line in output.split("\n")]
    count = len(TEXTS)
    pieces = {way: lines[count * index : count * (index + 1)] for index, way in enumerate(used)}
    names = {name: way for name, way in names.items() if way["way"] in pieces}
    STORED.write_text(json.dumps({"names": names, "pieces": pieces}, indent=0, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
