"""Ask the model that was quantized last, and what it was made from, the same: answers side by side."""

from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

from IPython import get_ipython
from ipywidgets import HTML, Layout, VBox

from qtoolkit.errors import ConfigError, masked
from qtoolkit.notebook.panels.field import text_field
from qtoolkit.notebook.panels.job_runner import Job, JobRunner
from qtoolkit.notebook.panels.progress_view import ProgressView
from qtoolkit.notebook.panels.verb_call import call_html
from qtoolkit.records import Answers

# Even a small model goes on with it sensibly for a sentence.
_PROMPT = "The sun rises in the"
_HINT = "a text that both go on with, by 40 tokens at most; small models soon repeat themselves, the original too"


@dataclass(frozen=True)
class Made:
    """What a job of the panel Quantize made.

    Attributes:
        model: what it was made from.
        device: where it was quantized.
        folder: where it was saved; empty if it was not.
        variable: the variable that it is kept as; empty if it is not.
    """

    model: str
    device: str
    folder: str
    variable: str


@dataclass(frozen=True)
class TryCall:
    """Ask both models; written as the call that asks the quantized one, which is all that a notebook needs later.

    Attributes:
        made: the model and its quantized form.
        prompt: the text to continue.
        verb: the name that its result is kept under.
    """

    made: Made
    prompt: str
    verb: str = "try"

    def __str__(self) -> str:
        loaded = f"qt.load({self.made.folder!r})" if self.made.folder else self.made.variable
        return f"{loaded}.generate({masked(self.prompt)!r})"

    def run(self, **hidden: Any) -> Answers:
        """Ask the quantized model, then the other one.

        Args:
            hidden: `on_progress`.

        Raises:
            ConfigError: it was kept as a variable alone, which is another's or nobody's by now.
        """
        from qtoolkit.jobs.answering import answer_both

        quantized = self.made.folder or get_ipython().user_ns.get(self.made.variable)
        if not hasattr(quantized, "generate") and not self.made.folder:
            raise ConfigError(f"the variable {self.made.variable} is no longer the quantized model: quantize it again")
        return answer_both(self.made.model, quantized, self.prompt, device=self.made.device, **hidden)


class TryIt:
    """A prompt and a button.

    Args:
        runner: runs the job.

    Attributes:
        box: the widget to put on the page.
        prompt, button, view: what is asked, asks, and tells how far that is.
        answers: HTML with the call and both answers side by side; they stand in the results too, which stay without a
            kernel.
    """

    def __init__(self, runner: JobRunner) -> None:
        self._made: Made | None = None
        self.prompt = text_field("Try it", _PROMPT, hint=_HINT)
        self.view = ProgressView()
        self.button = runner.further_button("Try it", self._job, self.view)
        self.answers = HTML(layout=Layout(max_width="100%"))
        self.box = VBox([self.prompt.box, self.button.box, self.view.box, self.answers])

    def take(self, made: Made) -> None:
        """Let it try what was made."""
        self._made = made
        self.answers.value = ""

    def _job(self) -> Job:
        prompt = self.prompt.needed("a text")
        if self._made is None:
            self.prompt.refuse("nothing is quantized yet: press Quantize first")
        call = TryCall(self._made, prompt)
        self.answers.value = call_html(call)
        return Job(call, f"answers to {prompt!r:.42}", partial(self._keep, call))

    def _keep(self, call: TryCall, answers: Answers) -> Answers:
        self.answers.value = call_html(call) + answers_html(answers)
        return answers


def answers_html(answers: Answers) -> str:
    """Draw two answers side by side, or below each other in a narrow cell, each behind the text that it continues."""
    parts = (("original, before", answers.before), ("quantized, after", answers.after))
    prompt = escape(answers.prompt)
    columns = "".join(f"<div><b>{name}</b><div><i>{prompt}</i>{escape(text)}</div></div>" for name, text in parts)
    return f'<div class="qtk-text qtk-answers">{columns}</div>'
