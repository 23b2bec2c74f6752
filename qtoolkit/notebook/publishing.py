"""The line of `%qpublish`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qtoolkit.notebook.arguments import JOB_OPTIONS, make_parser, refuse_rest, split_line
from qtoolkit.notebook.help import entry

# Option -> (what its value is called, empty for a switch; help), as `JOB_OPTIONS`.
PUBLISH_OPTIONS: Mapping[str, tuple[str, str]] = {
    "--dry-run": ("", "send nothing, and tell every file, its size and the card"),
    "--public": ("", "let everybody see it (default: private); the copy of a gated model is gated"),
    "--pr": ("", "open a pull request, for a repository of somebody else"),
    "--revision": ("BRANCH", "branch to write to, made where it does not exist (default: main)"),
    "--quality": ("NAME", "variable that holds what %qeval told of this folder, for the card"),
    "--license": ("NAME", "licence of a base whose card names none: apache-2.0, mit, ..."),
    "--base-model": ("ORG/NAME", "base for the card, of a model that was made in memory or in a folder of one's own"),
    "--base-model-relation": ("NAME", "what this model is to it: quantized (default), finetune, merge or adapter"),
    "--base": ("MODEL", "the full-precision model to compare with (default: the one in the receipt, if it is here)"),
    "--debug": JOB_OPTIONS["--debug"],
}


@dataclass(frozen=True)
class PublishRequest:
    """What one `%qpublish` asks for.

    Attributes:
        folder: with the saved model.
        repo_id: "org/name".
        quality: the variable's name; None where nothing was said.
        options: further arguments of `qt.publish`.
    """

    folder: str
    repo_id: str
    quality: str | None
    options: Mapping[str, Any]


def read_publish_request(line: str) -> PublishRequest:
    """The request that a line makes.

    Raises:
        ConfigError: an option that there is not, or too few words or too many.
    """
    words = ("FOLDER", "REPO")
    job, rest = make_parser("%qpublish", PUBLISH_OPTIONS, words).parse_known_args(split_line(line))
    refuse_rest(rest, "%qpublish", list(PUBLISH_OPTIONS), "", words)
    names = ("base", "base_model", "base_model_relation", "license", "revision")
    given = {name: getattr(job, name) for name in names if getattr(job, name) is not None}
    switches = {"private": not job.public, "create_pr": job.pr, "dry_run": job.dry_run}
    return PublishRequest(job.folder, job.repo, job.quality, {**switches, **given})


def publish_help() -> str:
    """Usage of `%qpublish`."""
    return "\n".join(
        [
            "Verify a saved model, and put it on the Hub with a card, in one commit; `qt.publish` in a line.",
            "",
            "  %qpublish FOLDER REPO [options]",
            "  publication = %qpublish FOLDER REPO ...",
            "",
            "FOLDER is what `%quantize --output` wrote, REPO is org/name. The token is the one of `hf auth login`,",
            "the variable HF_TOKEN, or Colab's secret of that name.",
            "",
            *(
                line
                for flag, (value, text) in PUBLISH_OPTIONS.items()
                for line in entry(f"{flag} {value}".strip(), text)
            ),
        ]
    )
