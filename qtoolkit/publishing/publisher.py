"""Publish a saved model: check what is asked, verify the folder, describe it in a card, and send it to the Hub."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from qtoolkit.errors import ConfigError, VerificationError
from qtoolkit.files import path_of
from qtoolkit.hub.hub_errors import HubModel, hub_address, refuse_token
from qtoolkit.hub.licenses import license_of_folder, named_license
from qtoolkit.hub.repository import ask, parse_name
from qtoolkit.measure.guard import explained
from qtoolkit.publishing.card import choose_license, make_card
from qtoolkit.publishing.card_frontier import frontier_files, refuse_foreign_frontier
from qtoolkit.publishing.contract_check import stored_in
from qtoolkit.publishing.files_push import send_missing
from qtoolkit.publishing.files_together import files_of, files_section
from qtoolkit.publishing.formats_together import formats_section
from qtoolkit.publishing.lineage import is_in_memory, refuse_claim
from qtoolkit.publishing.parts import Branch, branches_of, parts_of
from qtoolkit.publishing.push import CARD, Content, Repository
from qtoolkit.publishing.token import Writer, find_writer
from qtoolkit.publishing.verifier import LOADED_AGAIN, make_checks
from qtoolkit.records import Publication, PublishedFormat, Verification
from qtoolkit.requests import PublishRequest


@explained("publishing", LOADED_AGAIN)
def publish(request: PublishRequest) -> Publication:
    """Verify a saved model and put it on the Hub, as `qtoolkit.publish` describes."""
    check_repo_id(request.repo_id)
    branches = branches_of(parts_of(request))
    # Made once before the work, so that what it refuses is refused then.
    for branch in branches:
        _files_of(branch, _card(branch, branches, Verification(branch[0].artifact.path.name, ())))
    writer = None if request.dry_run else find_writer(request.repo_id, request.token)
    verifications = [
        [make_checks(part.artifact, part.request, run_anew=False) for part in branch] for branch in branches
    ]
    for verification in chain(*verifications):
        refuse_unproven(verification)
    planned = [_plan(branch, branches, checked) for branch, checked in zip(branches, verifications, strict=True)]
    first, *others = planned if writer is None else _send(writer, request, branches, planned)
    return replace(first, other_formats=tuple(map(_as_other, others)))


def _as_other(one: Publication) -> PublishedFormat:
    """Return the publication of a format that stands beside another one."""
    return PublishedFormat(one.revision, one.files, one.unchanged, one.card, one.verification, one.commit_hash)


def _plan(branch: Branch, branches: Sequence[Branch], verifications: Sequence[Verification]) -> Publication:
    """Return what a dry run returns of one branch, whose models were verified."""
    part = branch[0]
    request = part.request
    card = _card(branch, branches, verifications[0])
    files = _files_of(branch, card)
    others = zip(branch[1:], verifications[1:], strict=True)
    private = None if request.create_pr else request.private
    return Publication(
        repo_id=request.repo_id,
        url=f"{hub_address()}/{request.repo_id}",
        revision=request.revision,
        private=private,
        gated=private is False and bool(part.receipt.gated),
        dry_run=True,
        files={name: _size(content) for name, content in sorted(files.items())},
        unchanged=(),
        card=card,
        verification=verifications[0],
        beside={other.artifact.weight_files[0]: verification for other, verification in others},
    )


def _files_of(branch: Branch, card: str) -> dict[str, Content]:
    """Return the content of all files of a branch by name.

    Raises:
        ConfigError: models that are one file each do not stand beside each other.
    """
    return {**files_of(branch), CARD: card.encode(), **frontier_files(branch[0].request.frontier)}


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
    """Return the licence that the card of a model names, which is a folder, a file or on the Hub."""
    if _is_here(model):
        return license_of_folder(path_of(model, "model"))
    return named_license(ask(HubModel(*parse_name(os.fspath(model), revision))).card_data)


def _is_here(model: str | os.PathLike[str]) -> bool:
    """Check whether a name is that of a folder or a file, not of a model on the Hub."""
    # `Path` raises on a name that is too long, or on the home of nobody.
    return os.path.exists(os.path.expanduser(model))  # noqa: PTH110, PTH111


def _send(
    writer: Writer, request: PublishRequest, branches: Sequence[Branch], planned: Sequence[Publication]
) -> list[Publication]:
    """Put the files on the Hub that it does not have, and return the publications, with which those were.

    The card of the first branch names all others, so that it is sent last: what it names is there.

    Args:
        writer: in whose name.
        request: what to publish, and where.
        branches, planned: all branches, and what a dry run returns of each.
    """
    repositories = [Repository(request.repo_id, writer, one.revision, request.report) for one in planned]
    contents = [_files_of(branch, one.card) for branch, one in zip(branches, planned, strict=True)]
    for repository, one, files in zip(repositories, planned, contents, strict=True):
        repository.open(private=request.private, create_pr=request.create_pr)
        if one.gated and not repository.private:
            # Before there is a file that could be downloaded.
            repository.gate()
        repository.refuse_leftovers(files)
    sent = [
        _push(*one, create_pr=request.create_pr)
        for one in reversed(list(zip(repositories, branches, planned, contents, strict=True)))
    ]
    return sent[::-1]


def _push(
    repository: Repository, branch: Branch, planned: Publication, files: Mapping[str, Content], *, create_pr: bool
) -> Publication:
    """Send what a branch holds, and return its publication."""
    receipt = branch[0].receipt
    known: dict[Content, str] = {
        part.artifact.path / name: entry.sha256 for part in branch for name, entry in part.receipt.files.items()
    }
    hashes = {name: known[content] for name, content in files.items() if content in known}
    source = "a model in memory" if is_in_memory(receipt) else receipt.source.name
    message = f"{receipt.method} of {source}, by qtoolkit"
    return send_missing(repository, planned, files, hashes, message=message, create_pr=create_pr)


def _card(branch: Branch, branches: Sequence[Branch], verification: Verification) -> str:
    """Return the text of the card that a folder has, or else of one that is made.

    Args:
        branch: what the card is of; its first model's folder may have one.
        branches: all of a publication; the card of the first one names them.
        verification: the checks of the first model.

    Raises:
        ConfigError: the request contradicts the receipt, or the card that the folder has.
    """
    part = branch[0]
    artifact, receipt, request = part.artifact, part.receipt, part.request
    if request.frontier is not None:
        refuse_foreign_frontier(request.frontier, receipt)
    formats = formats_section([one[0] for one in branches]) if branch is branches[0] else ""
    formats = formats or files_section(branch)
    if CARD not in artifact.names:
        beside = [other.receipt for other in branch[1:]]
        return str(make_card(receipt, verification, request, stored_in(artifact), formats, beside))
    card = artifact.path / CARD
    given = [key for key in ("base_model", "base_model_relation", "quality", "frontier") if getattr(request, key)]
    for key in [*given, *(["also"] if formats else [])]:
        remedy = "write the figures into it" if key in ("quality", "frontier") else "write it in"
        raise ConfigError(
            f"{card} is published as it is, without {key}=: remove the file, so that a card is made, or {remedy}"
        )
    named = license_of_folder(artifact.path)
    if named is None or request.license not in (None, named):
        wanted = f"and license={request.license!r} is given" if request.license else "and none is made up"
        raise ConfigError(f"the card {card} names the licence {named!r}, {wanted}: correct the card")
    return card.read_text(encoding="utf-8")


def refuse_unproven(verification: Verification) -> None:
    """Refuse a model that failed a check, or was never loaded.

    Raises:
        VerificationError: it names the checks.
    """
    unloaded = [check for check in verification.unchecked if check.name == "loads in transformers"]
    bad = verification.failed or unloaded
    if bad:
        shown = "; ".join(f"{check.name}: {check.value[:120]}" for check in bad[:3])
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise VerificationError(f"{verification.name} is not published, for qt.verify finds {shown}{more}")


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


def _size(content: Content) -> int:
    """Return the bytes of a file, or of what will be one."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size
