"""`%qpublish` and `%quantize --push`: the line becomes arguments, and a push that cannot be done stops no job late."""

from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from transformers import AutoModelForCausalLM

from qtoolkit.errors import ConfigError
from qtoolkit.notebook.lines import MAGICS, MagicLine, read_line
from qtoolkit.notebook.magic_errors import MagicError
from qtoolkit.publishing import check_push
from tests.evaluation.plain import HELD_OUT
from tests.fake_hub.fixture import WRITE_TOKEN, writable_hub
from tests.fake_hub.writable import WritableHub

__all__ = ["writable_hub"]
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "out me/x": ("out", {}),
    "out me/x --public --dry-run": ("out", {"private": False, "dry_run": True}),
    "'my out' me/x --pr --license mit": ("my out", {"create_pr": True, "license": "mit"}),
    "out me/x --revision q4 --base org/base": ("out", {"revision": "q4", "base": "org/base"}),
    "out --quality report me/x": ("out", {"quality": "report"}),
}


@pytest.mark.parametrize(("line", "expected"), LINES.items(), ids=LINES)
def test_a_line_becomes_arguments(line: str, expected: tuple[str, dict[str, Any]]) -> None:
    folder, options = expected
    assert read_line("qpublish", line) == MagicLine((folder, "me/x"), options)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", r"%qpublish needs FOLDER and REPO: `%qpublish FOLDER REPO`; `%qpublish\?` tells more"),
        ("out", "%qpublish needs REPO: "),
        ("out me/x more", "expected one FOLDER and one REPO, got also 'more'"),
        ("out me/x --token hf_x", "%qpublish has no option --token: its options are --public, --pr, --dry-run"),
    ],
)
def test_another_line_is_refused(line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_line("qpublish", line)


def test_help_tells_of_all_options(shell: InteractiveShell) -> None:
    text = " ".join(shell.object_inspect_text("%qpublish").split())
    assert "%qpublish small me/small --dry-run" in text
    for option in MAGICS["qpublish"].options:
        assert f"{', '.join(option.flags)} {option.metavar}".strip() in text and option.help in text


@pytest.mark.slow
def test_figures_come_from_a_variable(shell: InteractiveShell, tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shell.user_ns["texts"] = [HELD_OUT]
    shell.run_line_magic("quantize", f"{tiny_llama} --method absmax --device cpu --output {out}")
    line = f"{out} --base {tiny_llama} --text texts --seq-len 32 --num-tokens 64 --no-speed --device cpu"
    shell.user_ns["report"] = report = shell.run_line_magic("qeval", line)
    publication = shell.run_line_magic("qpublish", f"{out} me/x --license mit --dry-run --quality report")
    for label, value in report.figures():
        assert not value or f"| {label} | {value} |" in publication.card
    with pytest.raises(MagicError, match="--quality takes a variable, and none is called 'reprot'"):
        shell.run_line_magic("qpublish", f"{out} me/x --license mit --dry-run --quality reprot")


@pytest.mark.slow
def test_what_was_quantized_is_pushed(
    shell: InteractiveShell, tiny_llama: Path, tmp_path: Path, writable_hub: WritableHub
) -> None:
    (tmp_path / "token").write_text(WRITE_TOKEN)
    line = f"{tiny_llama} --method absmax --output {tmp_path / 'out'} --push me/tiny --license apache-2.0"
    report = shell.run_line_magic("quantize", line)
    assert type(report).__name__ == "QuantizationReport"
    assert writable_hub.repositories["me/tiny"].private
    publication = shell.run_line_magic("qpublish", f"{tmp_path / 'out'} me/tiny --license apache-2.0")
    assert set(publication.unchanged) == set(publication.files)


def test_without_a_token_the_job_does_not_begin(
    shell: InteractiveShell, tiny_llama: Path, tmp_path: Path, writable_hub: WritableHub
) -> None:
    with pytest.raises(MagicError, match="writing to me/tiny needs a token"):
        shell.run_line_magic("quantize", f"{tiny_llama} --method absmax --output {tmp_path / 'out'} --push me/tiny")
    assert not (tmp_path / "out").exists()


def test_without_a_licence_the_job_does_not_begin(
    shell: InteractiveShell, tiny_llama: Path, tmp_path: Path, writable_hub: WritableHub
) -> None:
    (tmp_path / "token").write_text(WRITE_TOKEN)
    writable_hub.add("org/unknown", tiny_llama)
    writable_hub.add("org/known", tiny_llama).commit({"README.md": b"---\nlicense: mit\n---\n"})
    for model, options, told in (
        (str(tiny_llama), "", "the licence of .* is not known, and none is made up"),
        ("org/unknown", "", "the licence of org/unknown is not known"),
        ("org/known", "--license apache-2.0", "org/known stands under 'mit': leave it out"),
    ):
        with pytest.raises(MagicError, match=told):
            shell.run_line_magic("quantize", f"{model} --method absmax --output out --push me/tiny {options}")
    assert not Path("out").exists()
    assert writable_hub.downloads() == []
    check_push("me/tiny", "org/known", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--push me/tiny", "--push me/tiny needs --output"),
        ("--license mit", "--license is for a card"),
        ("--base-model a/b", "--base-model is for a card"),
        ("--base-model-relation merge", "--base-model-relation is for a card"),
    ],
)
def test_a_push_without_what_it_needs_is_refused(
    shell: InteractiveShell, tiny_llama: Path, options: str, message: str
) -> None:
    with pytest.raises(MagicError, match=message):
        shell.run_line_magic("quantize", f"{tiny_llama} --method absmax {options}")


@pytest.mark.slow
def test_a_push_tells_the_base_of_a_model_in_memory(
    shell: InteractiveShell, tiny_llama: Path, tmp_path: Path, writable_hub: WritableHub
) -> None:
    (tmp_path / "token").write_text(WRITE_TOKEN)
    shell.user_ns["merged"] = AutoModelForCausalLM.from_pretrained(tiny_llama, local_files_only=True)
    says = "--license mit --base-model org/base --base-model-relation merge"
    shell.run_line_magic("quantize", f"merged --method absmax --output {tmp_path / 'out'} --push me/tiny {says}")
    card = list(writable_hub.repositories["me/tiny"].commits.values())[-1]["README.md"].decode()
    assert "base_model: org/base\n" in card and "base_model_relation: merge\n" in card


@pytest.mark.parametrize(
    ("model", "says", "told"),
    [
        ("tiny_llama", "--base-model nowhere", "--base-model must be a model on the Hub, org/name, got 'nowhere'"),
        ("tiny_llama", "--base-model-relation copy", "--base-model-relation must be one of finetune, adapter, merge"),
        ("org/model@main", "--base-model org/other", "but this is a quantized copy of org/model: leave it out"),
    ],
    ids=["no name", "no relation", "another base"],
)
def test_a_base_that_cannot_be_is_refused_before_the_job(
    shell: InteractiveShell, tiny_llama: Path, tmp_path: Path, model: str, says: str, told: str
) -> None:
    shell.user_ns["tiny_llama"] = tiny_llama
    with pytest.raises(MagicError, match=told):
        shell.run_line_magic("quantize", f"{model} --method absmax --output out --push me/tiny --license mit {says}")
    assert not Path("out").exists()
