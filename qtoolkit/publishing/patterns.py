"""Find what must not stand in a file that is given to others: keys of services, and folders of one's own machine."""

import os
import re

from qtoolkit.files import current_folder, home_folder

# Kind of secret -> its pattern, as the services document it or secret scanners use it.
SECRETS = {
    "a Hugging Face token": re.compile(rb"\b(?:hf|api_org)_[A-Za-z0-9]{30,}"),
    "an OpenAI or Anthropic key": re.compile(rb"\bsk-[A-Za-z0-9_-]{32,}"),
    "a GitHub token": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,})"),
    "a GitLab token": re.compile(rb"\bglpat-[A-Za-z0-9_-]{20}"),
    "an AWS key": re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a Google key": re.compile(rb"\bAIza[0-9A-Za-z_-]{35}"),
    "a Slack token": re.compile(rb"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a private key": re.compile(rb"-----BEGIN (?:[A-Z]+ ){0,8}PRIVATE KEY-----"),
}
# Homes on Linux, macOS and Windows, in JSON too, where a backslash stands twice; and the drive that Colab mounts.
_HOMES = rb"/(?:home|Users)/[^/\s\"'<>]+/|/root/|/content/drive/|\b[A-Za-z]:(?:\\{1,2}|/)Users(?:\\{1,2}|/)"
_SHORTEST = 5


def local_paths() -> re.Pattern[bytes]:
    """Return a pattern of local paths: homes on any machine, and the home and the current folder of this one."""
    own = {str(folder) for folder in (home_folder(), current_folder()) if len(str(folder)) >= _SHORTEST}
    ours = [re.escape(os.fsencode(folder)) + rb"(?=[/\\\"'\s]|$)" for folder in sorted(own)]
    return re.compile(b"|".join([rb"(?<![\w.])(?:" + _HOMES + rb")", *ours]))


def private_in(text: bytes) -> str:
    """Return what a text holds that others must not see, in one clause that does not show it; empty for nothing."""
    kind = next((kind for kind, pattern in SECRETS.items() if pattern.search(text)), None)
    if kind is not None:
        return f"what looks like {kind}"
    return "a local path" if local_paths().search(text) else ""


def last_part(path: str) -> str:
    """Return the last part of a path or of a Hub id; any other text as it is."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def without_paths(text: str) -> str:
    """Return a text with each local path cut down to its last part.

    Example:
        >>> without_paths("read from /home/ann/models/small, as asked")
        'read from small, as asked'
    """
    pattern = re.compile(rb"(?:" + local_paths().pattern + rb")[^\s\"'<>,;]*")
    return pattern.sub(lambda match: re.split(rb"[/\\]", match[0].rstrip(b"/\\"))[-1], text.encode()).decode()
