"""The line of `%qpanel`."""

from qtoolkit.notebook.arguments import make_parser, refuse_rest, split_line

PANEL_OPTIONS = {"--only": ("NAME", "one panel alone"), "--debug": ("", "show the whole traceback of an error")}


def read_panel_request(line: str) -> tuple[str, str | None]:
    """The model, empty where none is named, and the panel that is opened alone, None for all.

    Raises:
        ConfigError: an option that there is not.
    """
    job, rest = make_parser("%qpanel", PANEL_OPTIONS, words=()).parse_known_args(split_line(line))
    model = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    refuse_rest(rest, "%qpanel", list(PANEL_OPTIONS), "")
    return model, job.only
