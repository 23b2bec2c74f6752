"""Publishing from start to end: what is asked, verified, described, and then sent."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from qtoolkit.errors import ConfigError, VerificationError
from qtoolkit.files import path_of
from qtoolkit.hub.hub_errors import HubModel, HubUpload, hub_address, refuse_token, translated
from qtoolkit.hub.licenses import license_of_folder, named_license
from qtoolkit.hub.repository import ask, parse_name
from qtoolkit.measure import explained
from qtoolkit.publishing.addition import Content
from qtoolkit.publishing.artifact import Artifact, open_artifact
from qtoolkit.publishing.card import choose_license, make_card
from qtoolkit.publishing.card_quality import refuse_foreign_figures
from qtoolkit.publishing.lineage import is_in_memory, refuse_claim
from qtoolkit.publishing.push import CARD, Repository
from qtoolkit.publishing.token import Writer, find_writer
from qtoolkit.publishing.verifier import LOADED_AGAIN, make_checks
from qtoolkit.records import Publication, Receipt, Verification
from qtoolkit.requests import PublishRequest


@explained("publishing", LOADED_AGAIN)
def publish(request: PublishRequest) -> Publication:
    """Verify a saved model and put it on the Hub, as `qtoolkit.publish` describes."""
    check_repo_id(request.repo_id)
    artifact = open_artifact(request.path)
    receipt = _receipt_of(artifact)
    describe = partial(_card, artifact, receipt, request)
    describe(Verification(artifact.path.name, ()))  # what it refuses, it refuses before the work
    writer = None if request.dry_run else find_writer(request.repo_id, request.token)
    verification = make_checks(request, run_anew=False)
    refuse_unproven(verification)
    files: dict[str, Content] = {name: artifact.path / name for name in artifact.names}
    files[CARD] = describe(verification).encode()
    planned = _planned(request, files, receipt, verification)
    return planned if writer is None else _send(writer, request, planned, receipt, files)


def check_push(
    repo_id: str,
    model: Any,
    revision: str | None,
    *,
    license: str | None = None,
    base_model: str | None = None,
    base_model_relation: str | None = None,
) -> None:
    """Refuse, before the hours of a job, a push that could not be done after it.

    Args:
        repo_id: as for `publish`.
        model, revision: what will be quantized.
        license, base_model, base_model_relation: as for `publish`.

    Raises:
        ConfigError: `repo_id` is no name of a repository, a licence that nobody knows, or a base that is none.
        GatedModelError: there is no token, or one that may only read.
        SourceError: the Hub does not know the token or the model, or does not answer.
    """
    check_repo_id(repo_id)
    is_named = isinstance(model, str | os.PathLike)
    copied = parse_name(os.fspath(model), revision)[0] if is_named and not _is_here(model) else None
    refuse_claim(base_model, base_model_relation, copied)
    find_writer(repo_id, None)
    known = _license_of(model, revision) if is_named else None
    choose_license(str(model) if is_named else type(model).__name__, known, license)


def _license_of(model: str | os.PathLike[str], revision: str | None) -> str | None:
    """As the card of a model names it, which is a folder, a file or on the Hub."""
    if _is_here(model):
        return license_of_folder(path_of(model, "model"))
    return named_license(ask(HubModel(*parse_name(os.fspath(model), revision))).card_data)


def _is_here(model: str | os.PathLike[str]) -> bool:
    """Whether it names a folder or a file, not a model on the Hub."""
    # Path raises on a name that is too long, or belongs to nobody.
    return os.path.exists(os.path.expanduser(model))  # noqa: PTH110, PTH111


def _planned(
    request: PublishRequest, files: Mapping[str, Content], receipt: Receipt, verification: Verification
) -> Publication:
    """Return what would be published, as a dry run shows it."""
    private = None if request.create_pr else request.private
    card = files[CARD]
    assert isinstance(card, bytes)
    return Publication(
        repo_id=request.repo_id,
        url=f"{hub_address()}/{request.repo_id}",
        revision=request.revision,
        private=private,
        gated=private is False and bool(receipt.gated),
        dry_run=True,
        files={name: _size(content) for name, content in sorted(files.items())},
        unchanged=(),
        card=card.decode(),
        verification=verification,
    )


def _send(
    writer: Writer, request: PublishRequest, planned: Publication, receipt: Receipt, files: Mapping[str, Content]
) -> Publication:
    """Put the files on the Hub that it does not have, and return which those were."""
    repository = Repository(request.repo_id, writer, request.revision, request.report)
    repository.open(private=request.private, create_pr=request.create_pr)
    gated = planned.gated and not repository.private
    if gated:
        # Before there is anything to hand out.
        gate(repository.repo_id, writer)
    repository.refuse_leftovers(files)
    unchanged = repository.unchanged(files, {name: entry.sha256 for name, entry in receipt.files.items()})
    left = {name: content for name, content in files.items() if name not in unchanged}
    commit, pull_request = repository.parent, None
    if left:
        of = "a model in memory" if is_in_memory(receipt) else receipt.source.name
        message = f"{receipt.method} of {of}, by qtoolkit"
        commit, pull_request = repository.push(left, message, create_pr=request.create_pr)
    return replace(
        planned,
        dry_run=False,
        private=repository.private,
        gated=gated,
        unchanged=unchanged,
        commit_hash=commit,
        pull_request=pull_request,
    )


def gate(repo_id: str, writer: Writer) -> None:
    """Let a public repository hand out its files only to those whom its owner admits, where it does not gate them yet.

    Whether the base admits everybody who accepts its terms is not known: its owner may choose that for the copy too.

    Raises:
        SourceError: the Hub refuses, or does not answer.
    """
    api = HfApi(token=writer.token)
    with translated(HubUpload(repo_id, token=writer.token)):
        if not api.model_info(repo_id).gated:
            api.update_repo_settings(repo_id, gated="manual")


def _receipt_of(artifact: Artifact) -> Receipt:
    if artifact.receipt is None:
        reason = artifact.receipt_error or f"{artifact.path} was not made by qtoolkit: it has no qtoolkit.json"
        raise VerificationError(f"{reason}; qt.verify tells what its files alone prove, and nothing is published")
    return artifact.receipt


def _card(artifact: Artifact, receipt: Receipt, request: PublishRequest, verification: Verification) -> str:
    """Return the card that the folder has, or else one that is made."""
    license = request.license
    quality = request.quality
    claims = {"base_model": request.base_model, "base_model_relation": request.base_model_relation}
    if quality is not None:
        refuse_foreign_figures(quality, receipt)
    if CARD not in artifact.names:
        return str(make_card(receipt, verification, request.repo_id, license=license, quality=quality, **claims))
    for key, value in claims.items():
        if value is not None:
            what = f"{artifact.path / CARD} is published as it is, without {key}="
            raise ConfigError(f"{what}: remove the file, so that a card is made, or write it in")
    if quality is not None:
        raise ConfigError(
            f"{artifact.path / CARD} is published as it is, without quality=: remove the file, so that a card is "
            "made, or write the figures into it"
        )
    named = license_of_folder(artifact.path)
    if named is None or license not in (None, named):
        wanted = f"and license={license!r} is given" if license else "and none is made up"
        raise ConfigError(f"the card {artifact.path / CARD} names the licence {named!r}, {wanted}: correct the card")
    return (artifact.path / CARD).read_text(encoding="utf-8")


def refuse_unproven(verification: Verification) -> None:
    """Refuse what failed a check, or was never loaded.

    Raises:
        VerificationError: it names the checks.
    """
    unloaded = [check for check in verification.unchecked if check.name == "loads in transformers"]
    bad = [*verification.failed, *unloaded]
    if bad:
        told = "; ".join(f"{check.name}: {check.value[:120]}" for check in bad[:3])
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise VerificationError(f"{verification.name} is not published, for qt.verify finds {told}{more}")


def check_repo_id(repo_id: str) -> None:
    """Refuse a name that no repository can have.

    Raises:
        ConfigError: it is not org/name.
    """
    refuse_token(repo_id)
    try:
        validate_repo_id(repo_id)
        named = "/" in repo_id
    except HFValidationError:
        named = False
    if not named:
        raise ConfigError(f"{repo_id!r} is no name of a Hub repository: write it as org/name")


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
