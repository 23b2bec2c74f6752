"""Every keyword of a verb is an option of its magic, or stands in a table that says why not."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.notebook.arguments import JOB_OPTIONS, read_request
from qtoolkit.notebook.comparing import COMPARE_OPTIONS, read_compare_request
from qtoolkit.notebook.evaluating import EVAL_OPTIONS

# Keyword -> why no line has it.
NOT_ON_A_LINE = {
    "token": "a notebook keeps its lines, and a token must be kept nowhere",
    "tokenizer": "an object, which Python alone can give",
    "on_progress": "the magic draws the progress itself",
}
# Keyword -> the option that says the same in other words.
OTHER_WORDS = {"speed": "--no-speed", "prompts": "--prompt"}
VERBS = [(qt.quantize, JOB_OPTIONS), (qt.plan, JOB_OPTIONS), (qt.compare, COMPARE_OPTIONS), (qt.evaluate, EVAL_OPTIONS)]


@pytest.mark.parametrize(("verb", "options"), VERBS, ids=["quantize", "plan", "compare", "evaluate"])
def test_every_keyword_is_an_option(verb: Callable[..., Any], options: Collection[str]) -> None:
    keywords = {name for name, one in inspect.signature(verb).parameters.items() if one.kind is one.KEYWORD_ONLY}
    flags = {name: OTHER_WORDS.get(name, "--" + name.replace("_", "-")) for name in keywords - NOT_ON_A_LINE.keys()}
    assert {name for name, flag in flags.items() if flag not in options} == set()


@pytest.mark.parametrize(("line", "resume"), [("m", True), ("m --resume", True), ("m --no-resume", False)])
def test_a_line_says_whether_to_go_on(line: str, *, resume: bool) -> None:
    assert read_request("quantize", line).resume is resume
    assert read_compare_request(f"{line} --base", None).options.get("resume", True) is resume


def test_options_reach_their_verbs() -> None:
    assert read_request("quantize", "m --output o --resume-repo org/r").resume_repo == "org/r"
    assert read_request("qplan", "m --batch-size 3").batch_size == 3
    options = read_compare_request("m --base --retries 0 --noise-floor", None).options
    assert (options["retries"], options["noise_floor"]) == (0, True)


@pytest.mark.parametrize("line", ["m --no-resume", "m --resume-repo org/r", "m --batch-size 0", "m --batch-size x"])
def test_a_plan_refuses_what_is_the_jobs(line: str) -> None:
    with pytest.raises(ConfigError, match=r"not for a plan|number of sequences"):
        read_request("qplan", line)
