"""What a search of the Hub answers: a line for each model, made from its files as huggingface.co makes it."""

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from tests.fake_hub.server import Repository

# What may be asked for with `expand`; huggingface.co has more.
FIELDS = {"cardData", "config", "downloads", "gated", "gguf", "safetensors", "sha", "siblings", "tags"}
_MAX_HEADER = 1_000_000


def answer(repositories: Sequence["Repository"], query: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """The models that a query asks for.

    Args:
        repositories: those that the token may see.
        query: `search`, `pipeline_tag`, `sort` ("downloads"), `limit` and `expand`, as in the address.

    Raises:
        ValueError: a field or an order that the Hub does not have.
    """
    wanted, asked = query.get("search", [""])[0].lower(), query.get("expand", [])
    odd = [*(set(asked) - FIELDS), *(set(query.get("sort", [])) - {"downloads"})]
    if odd:
        raise ValueError(f"Invalid option: {odd[0]}")
    found = [entry for entry in repositories if wanted in entry.repo_id.lower()]
    if "pipeline_tag" in query:
        found = [entry for entry in found if entry.pipeline_tag == query["pipeline_tag"][0]]
    if "sort" in query:
        found = sorted(found, key=lambda entry: -entry.downloads)
    return [describe(entry, asked) for entry in found[: int(query.get("limit", ["1000"])[0])]]


def describe(repository: "Repository", asked: Sequence[str]) -> dict[str, Any]:
    """One model: its id, and of the fields that are asked for those that it has."""
    files = repository.commits[repository.refs["main"]]
    known: dict[str, Any] = {
        "downloads": repository.downloads,
        "gated": "auto" if repository.gated else False,
        "sha": repository.refs["main"],
        "siblings": [{"rfilename": name} for name in files],
        "tags": [],
        **card_data(files),
    }
    if "config.json" in files:
        config = json.loads(files["config.json"])
        known["config"] = {key: config[key] for key in ("architectures", "model_type") if key in config}
        if "quantization_config" in config:
            known["config"]["quantization_config"] = {"quant_method": config["quantization_config"]["quant_method"]}
    counts = sum((_counts(files[name]) for name in files if name.endswith(".safetensors")), Counter[str]())
    if counts:
        known["safetensors"] = {"parameters": dict(counts), "total": counts.total()}
    known |= repository.claims
    return {"_id": repository.repo_id, "id": known.get("id", repository.repo_id)} | {
        key: known[key] for key in asked if key in known
    }


def card_data(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The metadata of the card as `cardData`; nothing without any."""
    metadata = re.match(rb"---\n(.*?)\n---\n", files.get("README.md", b""), re.DOTALL)
    return {"cardData": yaml.safe_load(metadata[1])} if metadata else {}


def _counts(content: bytes) -> Counter[str]:
    """Numbers of each type in a safetensors file; none where it is random bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    if not 0 < length <= _MAX_HEADER:
        return Counter()
    tensors = json.loads(content[8 : 8 + length])
    tensors.pop("__metadata__", None)
    counts = Counter[str]()
    for tensor in tensors.values():
        counts[tensor["dtype"]] += math.prod(tensor["shape"])
    return counts
