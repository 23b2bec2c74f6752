"""Checks of a folder by name, without a process for each."""

from pathlib import Path
from typing import Any

from qtoolkit.publishing import behaviour, origin_checks
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.verifier import check_files, check_running
from qtoolkit.records import Check

RUNNING = {
    *("loads in transformers", "logits", "perplexity", "token ids", "chat template"),
    *("special tokens", "generation config", "loads in gptqmodel"),
}


def in_this_process(request: dict[str, Any]) -> dict[str, Any]:
    """The answer of `behaviour.py`, given here."""
    base = behaviour.answer_base(Path(request["base"])) if request["base"] else None
    return behaviour.answer(request) | {"base": base}


def checks_of(folder: Path, *, base: Path | None = None, running: bool = True) -> dict[str, Check]:
    """All checks of a folder by name; those that load the model only with `running`."""
    artifact = open_artifact(folder)
    checks = [*check_files(artifact), origin_checks.check_license(artifact)]
    checks.append(origin_checks.check_base(artifact, str(base) if base else None, base))
    if running:
        checks += check_running(artifact, base, in_this_process)
    return {check.name: check for check in checks}
