"""The line of `%quantize` and `%qplan`: options of the job, and those that the chosen method's config has."""

import argparse
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any, NoReturn

from qtoolkit.errors import ConfigError
from qtoolkit.methods import MethodConfig, config_class
from qtoolkit.notebook.body import DEFAULT_METHOD, read_body
from qtoolkit.notebook.options import flag_of, is_list, is_switch, option_flags, option_hints, read_option, tables

# Option -> (what its value is called, empty for a switch; help). `%quantize?` and completion are made from it.
JOB_OPTIONS: Mapping[str, tuple[str, str]] = {
    "--output": ("DIR", "save the result in this folder, which must not exist yet"),
    "--into": ("NAME", "keep the quantized model in this variable"),
    "--device": ("NAME", "where the result lives: auto, cpu, cuda, cuda:1 (default: auto)"),
    "--revision": ("NAME", "branch, tag or commit of a model on the Hub (default: main)"),
    "--push": ("REPO", "verify what was saved, and put it on the Hub as a private repository; needs --output"),
    "--license": ("NAME", "with --push, the licence of a base whose card names none: apache-2.0, mit, ..."),
    "--base-model": ("ORG/NAME", "with --push, base for the card, of a model made in memory or in one's own folder"),
    "--base-model-relation": (
        "NAME",
        "with --push, what this model is to it: quantized (default), finetune, merge or adapter",
    ),
    "--overwrite": ("", "replace the output folder when it exists"),
    "--resume": ("", "go on with what an earlier call had done when it was stopped (default)"),
    "--no-resume": ("", "start anew"),
    "--resume-repo": ("REPO", "private repository on the Hub that the blocks done are pushed to, and pulled from"),
    "--plan": (
        "",
        "only tell what would be done and whether it fits: no weight is read or downloaded",
    ),
    "--machine": ("NAME", "plan for another machine: t4, l4, a100-80, cpu-12gb, ... (default: this one)"),
    "--context": ("TOKENS", "tokens for which using the result is planned (default: 4096)"),
    "--batch-size": ("NUMBER", "sequences for which using the result is planned (default: 1)"),
    "--debug": ("", "show the whole traceback of an error"),
}
# Those of `--push`, as arguments of `qt.publish`.
CARD_OPTIONS = ("license", "base_model", "base_model_relation")
# Those of `%qeval` and `%qcompare` that choose what is measured on.
TEXT_OPTIONS: Mapping[str, tuple[str, str]] = {
    "--text": ("TEXT", "wikitext2, c4, self, a file, or a variable that holds a list of texts (default: wikitext2)"),
    "--seq-len": ("TOKENS", "tokens of a window (default: 512)"),
    "--num-tokens": ("TOKENS", "tokens of the text to take (default: 16384)"),
    "--stride": ("TOKENS", "tokens from one window's beginning to the next (default: they do not overlap)"),
}


@dataclass(frozen=True)
class Request:
    """What one `%quantize` asks for; the fields are `qt.quantize`'s.

    Attributes:
        model: as written on the line: a Hub id, a path, or a variable's name.
        into: variable that shall hold the result; None to keep only what is saved.
        plan: only plan.
        machine: what to plan for; None for this machine.
        context, batch_size: tokens and sequences for which using the result is planned.
        resume, resume_repo: whether to go on with an earlier call's work, and the repository that holds it.
        push: the repository that the result is published in; None for none.
        card: what a person says for its card, as arguments of `qt.publish`: `license`, `base_model`,
            `base_model_relation`.
    """

    model: str
    config: MethodConfig
    output: str | None
    into: str | None
    device: str
    revision: str | None
    overwrite: bool
    plan: bool
    machine: str | None = None
    context: int = 4096
    batch_size: int = 1
    resume: bool = True
    resume_repo: str | None = None
    push: str | None = None
    card: Mapping[str, Any] = field(default_factory=dict)


def read_request(magic: str, line: str, body: str | None = None) -> Request:
    """The request that a line, and for `%%quantize` the cell's body, makes.

    Args:
        magic: the magic's name without `%`, for messages.
        line: what follows it; quotes hold words with blanks together, as in a shell.
        body: TOML with the method and its options; None for a line magic, whose line has them.

    Raises:
        ConfigError: an option that there is not, or a value that it cannot have.
    """
    words = split_line(line)
    if body is not None:
        config = read_body(body)
        job, rest = make_parser(f"%%{magic}", JOB_OPTIONS).parse_known_args(words)
        refuse_rest(rest, f"%%{magic}", list(JOB_OPTIONS), "; the method and its options go into the cell's body")
    else:
        chosen = config_class(method_in(words))
        parser = make_parser(f"%{magic}", JOB_OPTIONS)
        parser.add_argument("--method")
        hints = option_hints(chosen)
        for name, hint in hints.items():
            _add_option(parser, name, hint)
        job, rest = parser.parse_known_args(words)
        _refuse_tables(rest, chosen)
        refuse_rest(
            rest, f"method {chosen.method!r}", option_flags(chosen), f"; `%{magic}?` lists those of every method"
        )
        found = {name: getattr(job, _field(name)) for name in hints if hasattr(job, _field(name))}
        config = chosen.from_dict({name: read_option(hints[name], given) for name, given in found.items()})
    if job.into is not None and (not job.into.isidentifier() or iskeyword(job.into)):
        raise ConfigError(f"--into must be a variable's name, got {job.into!r}")
    if magic == "quantize" and not job.plan and (job.machine or job.context or job.batch_size):
        raise ConfigError("--machine, --context and --batch-size are for a plan: add --plan, or use %qplan")
    if (magic == "qplan" or job.plan) and (job.resume_repo or not job.resume):
        raise ConfigError("--resume-repo and --no-resume are for the job, not for a plan: leave them out")
    if job.push and not job.output:
        raise ConfigError(f"--push {job.push} needs --output: a folder that is verified and sent")
    card = {name: getattr(job, name) for name in CARD_OPTIONS if getattr(job, name)}
    if card and not job.push:
        raise ConfigError(f"{flag_of(next(iter(card)))} is for a card: give --push, or leave it out")
    return Request(
        model=job.model,
        config=config,
        output=job.output,
        into=job.into,
        device=job.device or "auto",
        revision=job.revision,
        overwrite=job.overwrite,
        plan=job.plan,
        machine=job.machine,
        context=read_count("--context", job.context or "4096"),
        batch_size=read_count("--batch-size", job.batch_size or "1", "sequences"),
        resume=job.resume,
        resume_repo=job.resume_repo,
        push=job.push,
        card=card,
    )


def read_count(flag: str, text: str, unit: str = "tokens", least: int = 1) -> int:
    """Read a number of tokens, or of another unit.

    Raises:
        ConfigError: none, or below the least.
    """
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{flag} must be a number of {unit}, got {text!r}")
    return int(text)


def text_counts(job: argparse.Namespace) -> dict[str, int]:
    """The numbers that a line gives for `TEXT_OPTIONS`.

    Raises:
        ConfigError: one is no number of tokens.
    """
    flags = {"seq_len": "--seq-len", "num_tokens": "--num-tokens", "stride": "--stride"}
    return {name: read_count(flag, getattr(job, name)) for name, flag in flags.items() if getattr(job, name)}


def method_in(words: list[str]) -> str:
    """The method that the words of a line name, or the default one."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", default=DEFAULT_METHOD)
    return str(parser.parse_known_args(words)[0].method)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}; `{self.prog}?` shows how it is used")


def make_parser(
    prog: str,
    options: Mapping[str, tuple[str, str]],
    words: tuple[str, ...] = ("MODEL",),
    *,
    repeated: tuple[str, ...] = (),
) -> argparse.ArgumentParser:
    """A parser of words and options, whose errors are ours.

    Args:
        prog: the magic, for messages.
        options: as `JOB_OPTIONS`.
        words: what stands on the line without an option; each is kept in lower case.
        repeated: options that may be given several times.
    """
    parser = _Parser(prog=prog, add_help=False, allow_abbrev=False)
    for word in words:
        parser.add_argument(word.lower(), metavar=word)
    for flag, (metavar, _) in options.items():
        if f"--no-{flag[2:]}" in options:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=True)
        # The other of a pair is added with its first.
        elif not flag.startswith("--no-") or f"--{flag[5:]}" not in options:
            parser.add_argument(flag, action="append" if flag in repeated else "store" if metavar else "store_true")
    return parser


def split_line(line: str) -> list[str]:
    """The words of a line, without their quotes; backslashes of Windows paths stay."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    if os.name == "nt":
        lexer.escape = ""
    try:
        return list(lexer)
    except ValueError as error:
        message = f"{str(error).lower()} in {line!r}: put quotes around a path that has blanks or quotes in it"
        raise ConfigError(message) from error


def refuse_rest(rest: list[str], who: str, flags: list[str], hint: str, words: tuple[str, ...] = ("MODEL",)) -> None:
    """Say what is wrong with words that neither `words` nor an option took."""
    unknown = next((word.partition("=")[0] for word in rest if word.startswith("-")), None)
    if unknown is not None:
        raise ConfigError(f"{who} has no option {unknown}: its options are {', '.join(flags)}{hint}")
    if rest:
        wanted = " and ".join(f"one {word}" for word in words)
        raise ConfigError(f"expected {wanted}, got also {rest[0]!r}: put quotes around a path that has blanks in it")


def _refuse_tables(rest: list[str], config: type[MethodConfig]) -> None:
    for name in tables(config):
        if any(word.partition("=")[0] == flag_of(name) for word in rest):
            raise ConfigError(
                f"{flag_of(name)} does not fit on a line: in the body of a %%quantize cell, write "
                f'[{name}."*.down_proj"] and below it the options of these layers, such as bits = 8'
            )


def _add_option(parser: argparse.ArgumentParser, name: str, hint: Any) -> None:
    # Without a default, so that only what the line says reaches the config.
    action: Any = "append" if is_list(hint) else argparse.BooleanOptionalAction if is_switch(hint) else "store"
    try:
        parser.add_argument(flag_of(name), dest=_field(name), action=action, default=argparse.SUPPRESS)
    except argparse.ArgumentError as error:
        message = f"{flag_of(name)} is an option of the job: set the method's in the body of a %%quantize cell"
        raise ConfigError(message) from error


def _field(name: str) -> str:
    """Where argparse keeps a config's field: apart from the job's own, so that a field may be called `model`."""
    return f"config.{name}"
