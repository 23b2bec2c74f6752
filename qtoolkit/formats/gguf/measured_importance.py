"""Turn the squares of inputs that a text gave into importance by tensors, and keep it as llama.cpp's imatrix file."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qtoolkit.checkpoints.imatrix import write_imatrix

if TYPE_CHECKING:
    from qtoolkit.checkpoints.gguf_places import Place
    from qtoolkit.stream.input_squares import InputSquares

# Not *.gguf: the Hub and programs would take it for a model.
IMATRIX = "imatrix.gguf_file"


@dataclass(frozen=True)
class MeasuredImportance:
    """The importance of inputs on a text.

    Attributes:
        sums: the squares of the inputs over all tokens, by llama.cpp's names of tensors, float32 [in] or [experts, in].
        counts: the tokens that they are of: one number, or one for each expert.
        text: its name.
        samples: of the text, [samples, tokens].
    """

    sums: Mapping[str, Tensor]
    counts: Mapping[str, tuple[int, ...]]
    text: str
    samples: tuple[int, ...]

    @classmethod
    def of(
        cls, places: "Iterable[tuple[Place, InputSquares]]", *, text: str, samples: tuple[int, ...]
    ) -> "MeasuredImportance":
        """Sort squares by tensors and experts.

        Args:
            places: where the weight of each layer goes, with the squares of the layer's inputs.
            text, samples: the text that they are of.
        """
        by_tensor: dict[str, dict[int | None, InputSquares]] = defaultdict(dict)
        for place, squares in places:
            by_tensor[place.name][place.expert] = squares
        sums, counts = {}, {}
        for name, own in by_tensor.items():
            parts = [own[expert] for expert in sorted(own, key=lambda expert: expert or 0)]
            stacked = torch.stack([part.sums for part in parts]).float().cpu()  # [experts, in]
            sums[name] = stacked[0] if None in own else stacked
            counts[name] = tuple(part.count for part in parts)
        return cls(sums, counts, text, samples)

    @property
    def means(self) -> dict[str, Tensor]:
        """Return the mean squares of the inputs, as they are read from the file: 1 of an expert that no token chose."""
        means = {}
        for name, sums in self.sums.items():
            counts = torch.tensor(self.counts[name], dtype=torch.float32)[:, None]
            rows = torch.where(counts > 0, sums.reshape(len(counts), -1) / counts, 1.0)  # [experts, in]
            means[name] = rows.reshape(sums.shape)
        return means

    @property
    def notes(self) -> tuple[str, ...]:
        """Tell what the importance is of, and where it is kept, one line each."""
        count, length = self.samples
        notes = [f"importance of inputs measured on {count} x {length} tokens of {self.text}, kept in {IMATRIX}"]
        if unseen := sum(not tokens for own in self.counts.values() for tokens in own):
            notes.append(f"no token of that text chose {unseen} matrices of experts, whose inputs all weigh the same")
        return tuple(notes)

    def write(self, file: Path) -> None:
        """Write it as `llama-imatrix` does; the file must not exist."""
        count, length = self.samples
        write_imatrix(file, self.sums, self.counts, datasets=[self.text], chunk_count=count, chunk_size=length)
