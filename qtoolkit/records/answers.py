"""Record what a model answers before and after it was quantized."""

from dataclasses import dataclass

from qtoolkit.records.base import Record, Row


@dataclass(frozen=True)
class Answers(Record):
    """Hold the answers of a model and of its quantized form to one prompt, each token the likeliest.

    Attributes:
        prompt: the text that they continue.
        before: what the model writes in full precision, or why it was not asked.
        after: what the quantized model writes.
    """

    prompt: str
    before: str
    after: str

    def headline(self) -> str:
        if self.before == self.after:
            return "The quantized model writes the same."
        return (
            "The quantized model writes something else, as it may: one answer is no measure of what was lost. "
            "The panel Compare, %qeval or qt.evaluate measures that."
        )

    def rows(self) -> tuple[Row, ...]:
        return (Row("prompt", self.prompt), Row("before", self.before), Row("after", self.after))
