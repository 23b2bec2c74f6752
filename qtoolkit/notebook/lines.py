"""Read the lines of magics: the words, the options of a verb, and those of a method."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from keyword import iskeyword
from typing import Any, NoReturn

from qtoolkit.errors import ConfigError, did_you_mean
from qtoolkit.methods import MethodConfig, MixedConfig, available_methods, config_class
from qtoolkit.notebook.body import DEFAULT_METHOD, read_body, read_configs
from qtoolkit.notebook.options import LineOption, config_options, flag_of, request_options, tables
from qtoolkit.notebook.panel_names import PANELS
from qtoolkit.notebook.shell_words import split_line
from qtoolkit.requests import (
    CardOptions,
    CompareRequest,
    ConvertRequest,
    EvaluateRequest,
    FrontierRequest,
    MergeRequest,
    PlanRequest,
    PublishRequest,
    QuantizeRequest,
    RepairRequest,
    Request,
    VerifyRequest,
)

_ONLY_FOR_PLANS = ("machine", "context", "batch_size")


def _own(name: str, help: str, metavar: str = "", choices: Sequence[str] = ()) -> LineOption:
    """Make an option that a magic has beside those of its verb."""
    return LineOption(name, (flag_of(name),), help, metavar, choices=choices)


_INTO = _own("into", "keep the quantized model in this variable", "NAME", ("q",))
_WORKERS = (
    _own("workers", "share the job out to so many processes of this machine, of one thread each", "N"),
    _own("dask", "share the job out to the workers of Dask's scheduler at this address", "ADDRESS"),
)
METHOD = _own("method", "the method that quantizes", "NAME")
_DEBUG = _own("debug", "show the whole traceback of an error")
_JOB_OPTIONS = (
    *request_options(QuantizeRequest),
    _INTO,
    _own("push", "verify what was saved, and put it on the Hub as a private repository; needs --output", "REPO"),
    *(replace(option, help=f"with --push, {option.help}") for option in request_options(CardOptions)),
    *_WORKERS,
    _own("plan", "only tell what would be done and whether it fits: no weight is read or downloaded"),
    *request_options(PlanRequest, *_ONLY_FOR_PLANS),
    _DEBUG,
)


@dataclass(frozen=True)
class MagicSyntax:
    """The words and options that the line of a magic may have.

    Attributes:
        options: its options, in the order of its help.
        words: what stands on it without an option.
        may_be_empty: whether the words may be left out.
        has_method: whether the line of `%magic` chooses a method, and has the method's options.
        body_hint: ends the message about an option that the line does not have.
    """

    options: tuple[LineOption, ...]
    words: tuple[str, ...] = ("MODEL",)
    may_be_empty: bool = False
    has_method: bool = False
    body_hint: str = ""


_METHODS = replace(
    _own("methods", "methods with their default options, and folders of quantized models", "A,B,C"), takes_path=True
)
_QUANTIZE = MagicSyntax(_JOB_OPTIONS, has_method=True, body_hint="; the method and its options go into the cell's body")
MAGICS: Mapping[str, MagicSyntax] = {
    "quantize": _QUANTIZE,
    # What a plan alone has is told first.
    "qplan": replace(_QUANTIZE, options=tuple(sorted(_JOB_OPTIONS, key=lambda one: one.name not in _ONLY_FOR_PLANS))),
    "qeval": MagicSyntax((*request_options(EvaluateRequest), *_WORKERS, _DEBUG)),
    "qcompare": MagicSyntax(
        (
            _METHODS,
            _own("base", "measure the model as it is, too"),
            *request_options(CompareRequest),
            _DEBUG,
        ),
        body_hint="; options of a method go into the body of a %%qcompare cell",
    ),
    "qfrontier": MagicSyntax(
        (_METHODS, *request_options(FrontierRequest), _DEBUG),
        body_hint="; options of a method go into the body of a %%qfrontier cell",
    ),
    "qconvert": MagicSyntax(
        (*request_options(ConvertRequest), *_WORKERS, _DEBUG),
        words=("MODEL", "FORMAT", "FOLDER"),
        body_hint="; format and folder stand alone: `%qconvert MODEL FORMAT FOLDER`",
    ),
    "qmerge": MagicSyntax((*request_options(MergeRequest), _INTO, _DEBUG), words=("MODEL", "ADAPTER")),
    "qrepair": MagicSyntax(
        (*request_options(RepairRequest), _DEBUG),
        words=("MODEL", "BASE", "FOLDER"),
        body_hint="; base and folder stand alone: `%qrepair MODEL BASE FOLDER`",
    ),
    "qverify": MagicSyntax((*request_options(VerifyRequest), _DEBUG), words=("FOLDER",)),
    "qpublish": MagicSyntax((*request_options(PublishRequest), _DEBUG), words=("FOLDER", "REPO")),
    "qpanel": MagicSyntax((_own("only", "one panel alone", "NAME", PANELS), _DEBUG), may_be_empty=True),
}


@dataclass(frozen=True)
class MagicLine:
    """The words, options and configs that a line gives.

    Attributes:
        words: what stands on it without an option.
        options: field -> value of each option that is given.
        configs: how to quantize: one config for `%quantize`, all that are compared or tried for the others.
    """

    words: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    configs: tuple[Any, ...] = ()

    @property
    def unkept(self) -> str:
        """Return what to tell, while there is time to interrupt it, of a job whose result nothing will keep."""
        return "" if self.options.keys() & {"into", "output"} else ", kept nowhere without --output or --into"

    def options_of(self, request: type[Request], named: Callable[[str], Any] = str) -> dict[str, Any]:
        """Return the given options that a verb takes, as its keyword arguments.

        Args:
            request: the class of the verb's request.
            named: returns the object that the text of an option stands for, if the verb takes one.
        """
        given = [option for option in request_options(request) if option.name in self.options]
        values = self.options
        return {one.name: named(values[one.name]) if one.in_variable else values[one.name] for one in given}


def read_line(magic: str, line: str, body: str | None = None) -> MagicLine:
    """Read the line of a magic, and the body of a cell magic.

    Args:
        magic: the magic's name without `%`.
        line: what follows it; quotes hold words with blanks together, as in a shell.
        body: TOML with methods and their options; None for a line magic, whose line has them.

    Raises:
        ConfigError: an unknown option, a value that it cannot have, or too few or too many words.
    """
    syntax = MAGICS[magic]
    name = f"%{magic}" if body is None else f"%%{magic}"
    words = split_line(line)
    _refuse_switch_values(words, syntax, in_cell=body is not None)
    options, rest = _parse(name, syntax.options, words)
    configs: tuple[MethodConfig, ...] = ()
    if syntax.has_method and body is None:
        config, rest = _read_method(name, rest)
        configs = (config,)
    else:
        flags = [flag for option in syntax.options for flag in option.flags]
        _refuse_unknown(rest, name, flags, syntax.body_hint, words=syntax.words)
    arguments = _read_words(name, syntax, rest)
    if "methods" in {option.name for option in syntax.options}:
        return _with_configs(MagicLine(arguments, options), magic, name, body)
    if syntax.has_method:
        _check_job(magic, options)
        configs = configs if body is None else (read_body(body),)
    return MagicLine(arguments, options, configs)


def _refuse_switch_values(words: Sequence[str], syntax: MagicSyntax, *, in_cell: bool) -> None:
    """Refuse `--double-quant true`, of which "true" would be taken for a word of its own."""
    known = list(syntax.options)
    if syntax.has_method and not in_cell:
        known += config_options(config_class(method_in(words)))
    switches = {flag: option for option in known if not option.metavar for flag in option.flags}
    for before, word in pairwise((*words, "")):
        flag, equals, value = before.partition("=")
        given = value if equals else word
        if flag in switches and given.lower() in ("true", "false", "yes", "no", "on", "off", "1", "0"):
            raise ConfigError(f"{flag} takes no value, got {given!r}: {_switch_hint(flag, switches[flag], given)}")


def _switch_hint(flag: str, option: LineOption, given: str) -> str:
    """Say how a switch is written that was given a value."""
    wanted = given.lower() in ("true", "yes", "on", "1")
    if wanted:
        return f"write {flag} alone"
    other = next((one for one in option.flags if one != flag), None)
    return f"write {other}" if other else f"leave {flag} out"


def _read_method(name: str, words: list[str]) -> tuple[MethodConfig, list[str]]:
    """Return the config that a line describes, and the words that remain."""
    chosen = config_class(method_in(words, name))
    known = config_options(chosen)
    for option in known:
        if any(option.flags[0] in other.flags for other in _JOB_OPTIONS):
            message = f"{option.flags[0]} is an option of the job: set the method's in the body of a %%quantize cell"
            raise ConfigError(message)
    values, rest = _parse(name, (METHOD, *known), words)
    values.pop("method", None)
    given = {word.partition("=")[0] for word in rest}
    for table in tables(chosen):
        if flag_of(table) in given:
            raise ConfigError(
                f"{flag_of(table)} does not fit on a line: in the body of a %%quantize cell, write "
                f'[{table}."*.down_proj"] and below it the options of these layers{_example_of_layers(chosen)}'
            )
    flags = [flag for option in known for flag in option.flags]
    _refuse_unknown(
        rest,
        f"method {chosen.method!r}",
        flags,
        f"; `{name} --method {chosen.method} --help` explains them",
        also=[flag for option in (METHOD, *MAGICS[name.lstrip("%")].options) for flag in option.flags],
    )
    return chosen.from_typed(values), rest


def _example_of_layers(chosen: type[MethodConfig]) -> str:
    """Return an option that rules give to layers, as the body of a cell has it: ", such as bits = 8"."""
    config = chosen()
    if not isinstance(config, MixedConfig):
        return ""
    return f", such as {config.mixed} = {json.dumps(config.choices_to_give()[-1])}"


def method_in(words: Sequence[str], name: str = "") -> str:
    """Return the method that the words of a line name, or the default one; `name` is the magic's, for messages."""
    return str(_parse(name, (METHOD,), words)[0].get("method", DEFAULT_METHOD))


def _with_configs(line: MagicLine, magic: str, name: str, body: str | None) -> MagicLine:
    """Return the line of a comparison or a frontier with all configs and prompts, of the line and of the body."""
    in_body, prompts = read_configs(body) if body is not None else ([], [])
    methods = [method.strip() for method in line.options.get("methods", "").split(",") if method.strip()]
    configs = (*([None] if line.options.get("base") else []), *methods, *in_body)
    if magic == "qfrontier":
        if prompts:
            raise ConfigError(f"{name} has no prompts: %%qcompare lets models continue texts")
        return MagicLine(line.words, line.options, configs)
    if not configs:
        raise ConfigError(f"{name} needs something to compare: --methods {','.join(available_methods()[:3])}")
    options = {**line.options, "prompts": [*line.options.get("prompts", []), *prompts]}
    return MagicLine(line.words, options, configs)


def _check_job(magic: str, options: Mapping[str, Any]) -> None:
    """Refuse options of `%quantize` and `%qplan` that do not go together."""
    into = options.get("into")
    if into is not None and (not into.isidentifier() or iskeyword(into)):
        raise ConfigError(f"--into must be a variable's name, got {into!r}")
    plans = magic == "qplan" or "plan" in options
    if not plans and any(name in options for name in _ONLY_FOR_PLANS):
        raise ConfigError("--machine, --context and --batch-size are for a plan: add --plan, or use %qplan")
    if plans and ("resume_repo" in options or not options.get("resume", True)):
        raise ConfigError("--resume-repo and --no-resume are for the job, not for a plan: leave them out")
    if "push" in options and "output" not in options:
        raise ConfigError(f"--push {options['push']} needs --output: a folder that is verified and sent")
    card = [option.flags[0] for option in request_options(CardOptions) if option.name in options]
    if card and "push" not in options:
        raise ConfigError(f"{card[0]} is for a card: give --push, or leave it out")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = message.replace("ignored explicit argument", "takes no value, got")
        raise ConfigError(f"{self.prog}: {message}; `{self.prog}?` shows how it is used")


def _parse(name: str, options: Sequence[LineOption], words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the options that are given, and the words that belong to none of them."""
    parser = _Parser(prog=name, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for option in options:
        if option.metavar:
            parser.add_argument(*option.flags, dest=option.name, action="append" if option.several else "store")
        elif len(option.flags) == 2:
            parser.add_argument(option.flags[0], dest=option.name, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(*option.flags, dest=option.name, action="store_const", const=option.sets)
    given, rest = parser.parse_known_args(words)
    values = {option.name: getattr(given, option.name) for option in options if hasattr(given, option.name)}
    return {option.name: option.read(values[option.name]) for option in options if option.name in values}, rest


def _refuse_unknown(
    rest: Sequence[str],
    who: str,
    flags: Sequence[str],
    hint: str,
    *,
    also: Sequence[str] = (),
    words: Sequence[str] = (),
) -> None:
    """Refuse an option that nothing takes.

    Args:
        rest: the words of the line that are left.
        who: what was asked, for the message.
        flags: its options.
        hint: the end of the message.
        also: the options of the magic itself, which may have been meant.
        words: what stands on the line without a flag: an option of that name is not near another one.
    """
    unknown = next((word.partition("=")[0] for word in rest if word.startswith("-")), None)
    if unknown is not None:
        near = "" if unknown.removeprefix("--").upper() in words else did_you_mean(unknown, [*also, *flags])
        raise ConfigError(f"{who} has no option {unknown}: {near}its options are {', '.join(flags)}{hint}")


def _read_words(name: str, syntax: MagicSyntax, rest: Sequence[str]) -> tuple[str, ...]:
    """Return what stands on a line without an option, as many words as the magic takes."""
    missing = syntax.words[len(rest) :]
    if missing and not syntax.may_be_empty:
        raise ConfigError(
            f"{name} needs {' and '.join(missing)}: `{name} {' '.join(syntax.words)}`; `{name}?` tells more"
        )
    if len(rest) > len(syntax.words):
        wanted = " and ".join(f"one {word}" for word in syntax.words)
        extra = rest[len(syntax.words)]
        hint = "put quotes around a path that has blanks in it"
        if _METHODS in syntax.options and extra in available_methods():
            hint = f"write methods with commas and no blanks: --methods A,{extra}"
        elif syntax.words[0] == "MODEL":
            hint += f", or give the name of a variable that holds it, without braces: `{name} model`"
        raise ConfigError(f"expected {wanted}, got also {extra!r}: {hint}")
    return tuple(rest)
