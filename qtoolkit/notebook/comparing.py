"""The line of `%qcompare`, and the body of `%%qcompare`."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.methods import available_methods
from qtoolkit.notebook.arguments import (
    JOB_OPTIONS,
    TEXT_OPTIONS,
    make_parser,
    read_count,
    refuse_rest,
    split_line,
    text_counts,
)
from qtoolkit.notebook.body import DEFAULT_METHOD, read_configs
from qtoolkit.notebook.help import entry

# Option -> (what its value is called, empty for a switch; help), as `JOB_OPTIONS`.
COMPARE_OPTIONS: Mapping[str, tuple[str, str]] = {
    "--methods": ("A,B,C", "methods with their default options, and folders of quantized models"),
    "--base": ("", "measure the model as it is, too"),
    **TEXT_OPTIONS,
    "--prompt": ("TEXT", "a text that each continues; may be given several times"),
    "--memory": ("SIZE", 'bytes that using the best one may take, such as "4 GB"'),
    "--executor": ("NAME", "variable that holds a concurrent.futures.Executor, where the work is done"),
    "--retries": ("NUMBER", "how often a job is begun again when its worker is lost (default: 2)"),
    "--noise-floor": ("", "measure too what rounding alone does to the model"),
    "--resume": ("", "take the results of an earlier call that was the same (default)"),
    "--no-resume": ("", "measure anew"),
    "--output": ("DIR", "keep results in this folder (default: one in your cache)"),
    **{flag: JOB_OPTIONS[flag] for flag in ("--device", "--revision", "--debug")},
}


@dataclass(frozen=True)
class CompareRequest:
    """What one `%qcompare` asks for.

    Attributes:
        model: as written on the line: a Hub id, a path, or a variable's name.
        configs: what is compared, as `qt.compare` takes it.
        text, executor: as written on the line: a variable's name where there is one; None where nothing was said.
        options: further arguments of `qt.compare`.
    """

    model: str
    configs: tuple[Any, ...]
    text: str | None
    executor: str | None
    options: Mapping[str, Any]


def read_compare_request(line: str, body: str | None) -> CompareRequest:
    """The request that a line, and for `%%qcompare` the cell's body, makes.

    Args:
        line: what follows the magic.
        body: TOML with configs and prompts; None for a line magic, whose line has methods and prompts.

    Raises:
        ConfigError: an option that there is not, or a value that it cannot have.
    """
    magic = "%qcompare" if body is None else "%%qcompare"
    job, rest = make_parser(magic, COMPARE_OPTIONS, repeated=("--prompt",)).parse_known_args(split_line(line))
    refuse_rest(rest, magic, list(COMPARE_OPTIONS), "; options of a method go into the body of a %%qcompare cell")
    written, prompts = read_configs(body) if body is not None else ([], [])
    methods = [name.strip() for name in (job.methods or "").split(",") if name.strip()]
    configs = (*([None] if job.base else []), *methods, *written)
    if not configs:
        raise ConfigError(f"{magic} needs something to compare: --methods {','.join(available_methods()[:3])}")
    others = {name: getattr(job, name) for name in ("memory", "output", "device", "revision")}
    given: dict[str, Any] = {name: value for name, value in others.items() if value is not None}
    if job.retries is not None:
        given["retries"] = read_count("--retries", job.retries, "times", least=0)
    if job.noise_floor:
        given["noise_floor"] = True
    if not job.resume:
        given["resume"] = False
    options = {**text_counts(job), **given, "prompts": [*(job.prompt or []), *prompts]}
    return CompareRequest(job.model, configs, job.text, job.executor, options)


def compare_help() -> str:
    """Usage of `%qcompare` and `%%qcompare`."""
    return "\n".join(
        [
            "Quantize a model in several ways and measure each on one text: size, loss, speed, answers.",
            "",
            "  %qcompare MODEL --methods NAME,NAME [options]",
            "  comparison = %qcompare MODEL ...",
            "",
            "  %%qcompare MODEL [options]",
            '  prompts = ["The capital of France is"]   the body is TOML: prompts, and a table for each config',
            "  [[configs]]",
            f'  method = "{DEFAULT_METHOD}"',
            "",
            *(
                line
                for flag, (value, text) in COMPARE_OPTIONS.items()
                for line in entry(f"{flag} {value}".strip(), text)
            ),
            "",
            *textwrap.wrap(f"Methods: {', '.join(available_methods())}; `%quantize?` lists the options of each.", 110),
        ]
    )
