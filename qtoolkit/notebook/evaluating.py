"""The line of `%qeval`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qtoolkit.notebook.arguments import (
    JOB_OPTIONS,
    TEXT_OPTIONS,
    make_parser,
    refuse_rest,
    split_line,
    text_counts,
)
from qtoolkit.notebook.help import entry

# Option -> (what its value is called, empty for a switch; help), as `JOB_OPTIONS`.
EVAL_OPTIONS: Mapping[str, tuple[str, str]] = {
    "--base": ("MODEL", "what it was made from, to measure what was lost (default: perplexity alone)"),
    **TEXT_OPTIONS,
    "--noise-floor": ("", "measure too what rounding alone does to the base"),
    "--no-speed": ("", "do not measure how fast it reads and writes"),
    **{flag: JOB_OPTIONS[flag] for flag in ("--device", "--revision", "--debug")},
}


@dataclass(frozen=True)
class EvalRequest:
    """What one `%qeval` asks for.

    Attributes:
        model: as written on the line: a Hub id, a path, or a variable's name.
        base, text: the same; None where nothing was said.
        options: further arguments of `qt.evaluate`.
    """

    model: str
    base: str | None
    text: str | None
    options: Mapping[str, Any]


def read_eval_request(line: str) -> EvalRequest:
    """The request that a line makes.

    Raises:
        ConfigError: an option that there is not, or a value that it cannot have.
    """
    job, rest = make_parser("%qeval", EVAL_OPTIONS).parse_known_args(split_line(line))
    refuse_rest(rest, "%qeval", list(EVAL_OPTIONS), "")
    switches = {"noise_floor": job.noise_floor, "speed": not job.no_speed}
    given = {name: getattr(job, name) for name in ("device", "revision") if getattr(job, name) is not None}
    return EvalRequest(job.model, job.base, job.text, {**text_counts(job), **switches, **given})


def eval_help() -> str:
    """Usage of `%qeval`."""
    return "\n".join(
        [
            "Measure a model on a text: perplexity, and against its base what was lost; how fast it is.",
            "",
            "  %qeval MODEL --base MODEL [options]",
            "  report = %qeval MODEL ...",
            "",
            "MODEL is a variable, a folder, a Hub id or a .gguf file.",
            "",
            *(line for flag, (value, text) in EVAL_OPTIONS.items() for line in entry(f"{flag} {value}".strip(), text)),
        ]
    )
