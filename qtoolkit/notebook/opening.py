"""The line of `%qpanel`."""

from qtoolkit.notebook.arguments import make_parser, refuse_rest, split_line

PANEL_OPTIONS = {"--only": ("NAME", "one panel alone"), "--debug": ("", "show the whole traceback of an error")}


def read_panel_request(line: str) -> tuple[str, str | None]:
    """The model, empty where none is named, and the panel that is opened alone, None for all.

    Raises:
        ConfigError: an option that there is not.
    """
    words = split_line(line)
    if not words or words[0].startswith("-"):
        words.insert(0, "")
    job, rest = make_parser("%qpanel", PANEL_OPTIONS).parse_known_args(words)
    refuse_rest(rest, "%qpanel", list(PANEL_OPTIONS), "")
    return job.model, job.only
