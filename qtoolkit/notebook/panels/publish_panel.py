"""Verify a saved model check by check, show its card, and put it on the Hub."""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Any

from IPython import get_ipython
from ipywidgets import HTML, VBox

from qtoolkit.checkpoints.hub_names import BASE_MODEL_RELATIONS
from qtoolkit.errors import ModelNotFoundError, SourceError, VerificationError
from qtoolkit.hub.login import has_token
from qtoolkit.notebook.panels.background import Worker
from qtoolkit.notebook.panels.field import ErrorFields, switch_field, text_field
from qtoolkit.notebook.panels.job_runner import Job, JobRunner
from qtoolkit.notebook.panels.keyword_field import given_options, keyword_field
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.notebook.panels.path_field import path_field
from qtoolkit.notebook.panels.results import Results
from qtoolkit.notebook.panels.verb_call import Variable, VerbCall, call_html
from qtoolkit.records import Check, Publication, Record, Verification
from qtoolkit.requests import PublishRequest
from qtoolkit.units import format_items

_LOGGED_IN = "A token for the Hub is here. Dry run and Publish ask the Hub first whether it may write."
_NOT_LOGGED_IN = (
    "No token for the Hub is here, and publishing needs one that may write: in a cell, run "
    "huggingface_hub.notebook_login(), or on Colab add the secret HF_TOKEN. Verify needs none."
)
_FAILED = "Checks of this folder failed: mend what they name, and press Verify again."
_LOGGED_OUT_HINT = "Publish needs a token: see above."
_MARKS = {True: "✔", False: "✖", None: "?"}
# Of what holds as far as it was read, and was not tried.
_NOT_TRIED = "○"


class PublishPanel:
    """Verify a saved model, show what would be sent to the Hub, and send it.

    Args:
        choice: has the folder that was saved last.
        worker: runs the job.
        results: shows verification and publication.

    Attributes:
        box: the widget to put on the page.
        folder, repo_id, also, license, base_model, base_model_relation, quality, revision, public, create_pr: the
            fields.
        login: HTML that tells whether a token is here.
        checks, card: HTML with the checks one by one, and the card.
        runner: verify, dry run, publish and cancel, and the progress.
    """

    def __init__(self, choice: PanelChoice, worker: Worker, results: Results) -> None:
        self._choice = choice
        self.folder = path_field("Folder", choice.folder, hint="a saved model")
        self.repo_id = text_field("Repository", hint="org/name on the Hub; made where it does not exist")
        self.also = keyword_field(PublishRequest, "also", "Other formats")
        self.license = keyword_field(PublishRequest, "license", "Licence")
        self.base_model = keyword_field(PublishRequest, "base_model", "Base model")
        relations = [("as the folder tells", ""), *((name, name) for name in BASE_MODEL_RELATIONS)]
        self.base_model_relation = keyword_field(
            PublishRequest, "base_model_relation", "Relation to it", menu=relations
        )
        hint = "a variable with what qt.evaluate gave of this folder, for the card"
        self.quality = keyword_field(PublishRequest, "quality", "Figures", hint=hint)
        self.revision = keyword_field(PublishRequest, "revision", "Branch")
        self.public = switch_field("Public: everybody may see it", value=False)
        self.public.ticked = False  # private=False
        self.create_pr = keyword_field(PublishRequest, "create_pr", "Open a pull request instead")
        self.login = HTML()
        self.checks = HTML()
        self.card = HTML()
        self.call = HTML()
        self._fields = [self.folder, self.repo_id, self.also, self.license, self.base_model, self.base_model_relation]
        self._fields += [self.quality, self.revision, self.public, self.create_pr]
        actions: dict[str, Callable[[], Job]] = {
            "Verify": self._verify,
            "Dry run": partial(self._publish, dry_run=True),
            "Publish": partial(self._publish, dry_run=False),
        }
        errors: ErrorFields = {
            "private": self.public,
            ModelNotFoundError: self.folder,
            VerificationError: self.folder,
            SourceError: self.repo_id,
        }
        self.runner = JobRunner(worker, results, actions, self._fields, errors)
        below = [self.call, self.runner.box, self.checks, self.card]
        self.box = VBox([self.login, *(field.box for field in self._fields), *below])
        for field in self._fields:
            field.on_change(self._show_call)
        self._show_call()
        self.refresh()
        self.folder.on_change(lambda: self._allow_publish(allowed=True))
        choice.observe(lambda change: setattr(self.folder, "value", change["new"]), names="folder")

    def refresh(self) -> None:
        """Tell whether a token is here by now: called too when the panel is turned to."""
        self._has_token = has_token()
        self._allow_publish(allowed=not self.runner.actions["Publish"].control.disabled)
        said = _LOGGED_IN if self._has_token else _NOT_LOGGED_IN
        self.login.value = f'<div class="qtk-text">{escape(said)}</div>'

    def _show_call(self) -> None:
        if self.folder.value and self.repo_id.value:
            calls = (self._verify_call(), self._call(dry_run=True), self._call(dry_run=False))
            self.call.value = "".join(map(call_html, calls))
        else:
            self.call.value = call_html(None, "It needs a folder and a repository.")

    def _call(self, *, dry_run: bool) -> VerbCall:
        options = given_options(self._fields)
        if dry_run:
            options["dry_run"] = True
        if self.public.value:
            options["private"] = False
        if "quality" in options:
            options["quality"] = Variable(self.quality.value, self._variables().get(self.quality.value))
        return VerbCall("publish", (self.folder.value, self.repo_id.value), options)

    def _variables(self) -> dict[str, Any]:
        """Return the variables of the notebook."""
        return getattr(get_ipython(), "user_ns", {})

    def _verify(self) -> Job:
        folder = self.folder.needed("a folder with a saved model")
        return self._job(f"verification of {folder}", self._verify_call(), self._show_verdict)

    def _verify_call(self) -> VerbCall:
        return VerbCall("verify", (self.folder.value,), given_options([self.license]))

    def _publish(self, *, dry_run: bool) -> Job:
        from qtoolkit.publishing import check_repo_id

        folder = self.folder.needed("a folder with a saved model")
        self.repo_id.needed("org/name")
        self.repo_id.checked(check_repo_id)
        if self.quality.value and self.quality.value not in self._variables():
            self.quality.refuse(f"Figures must name a variable, got {self.quality.value!r:.40}")
        self.quality.set_problem("")
        title = f"{'dry run' if dry_run else 'publication'} of {folder}"
        return self._job(title, self._call(dry_run=dry_run), self._show_card)

    def _job(self, title: str, call: VerbCall, on_result: Callable[[Any], Record]) -> Job:
        """Return a job that shows each check soon after it was made."""
        checks: list[Check] = []

        def draw() -> None:
            self.checks.value = checks_html(tuple(checks))

        self.card.value = ""
        return Job(call, title, on_result, draw=draw, hidden={"on_check": checks.append})

    def _show_verdict(self, verification: Verification) -> Verification:
        """Let Publish be pressed, unless checks of this folder have failed."""
        self._allow_publish(allowed=verification.passed)
        return verification

    def _allow_publish(self, *, allowed: bool) -> None:
        publish = self.runner.actions["Publish"]
        publish.control.disabled = not allowed
        publish.control.button_style = "primary" if allowed and self._has_token else ""
        publish.set_hint(_FAILED if not allowed else "" if self._has_token else _LOGGED_OUT_HINT)

    def _show_card(self, publication: Publication) -> Publication:
        self.card.value = card_html(publication)
        return publication


def checks_html(checks: Sequence[Check]) -> str:
    """Draw checks as a list, each with a mark, its state in words, and what was seen; passed ones stand last."""
    failed = [check for check in checks if check.passed is False]
    unmade = [check for check in checks if check.passed is None]
    items = "".join(map(_check_html, [*failed, *unmade, *(check for check in checks if check.passed)]))
    left = f", {len(unmade)} could not be made" if unmade else ""
    counted = f"{len(failed)} of {format_items(len(checks), 'check')} FAILED{left}"
    head = f'<div class="qtk-text qtk-failed">✖ {counted}</div>' if failed else ""
    return f'{head}<ul aria-label="checks" class="qtk-text qtk-list">{items}</ul>'


def _check_html(check: Check) -> str:
    (row,) = check.rows()
    note = f" ({escape(row.note)})" if row.note else ""
    kind = ' class="qtk-failed"' if check.passed is False else ""
    mark = _MARKS[check.passed] if not check.passed or row.value == "passed" else _NOT_TRIED
    return f"<li{kind}>{mark} {escape(row.label)}: {escape(row.value)}{note}</li>"


def card_html(publication: Publication) -> str:
    """Show the source of the card, and the address where it is, or would be after a dry run."""
    url = escape(publication.url)
    where = f"would be at {url}" if publication.dry_run else f'is at <a href="{url}">{url}</a>'
    card = f'<pre class="qtk-card">{escape(publication.card)}</pre>'
    return f'<div class="qtk-text">The model {where}<details><summary>Its card</summary>{card}</details></div>'
