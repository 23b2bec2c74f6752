"""The card of a published model: what was done, measured and verified, from its receipt; nothing is made up."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from qtoolkit.errors import ConfigError
from qtoolkit.methods import config_class
from qtoolkit.records import Receipt, Record, Verification
from qtoolkit.units import format_bits, format_bytes, format_seconds

TEMPLATE = Path(__file__).with_name("card_template.md")
# What Markdown or HTML would take for more than text.
_MARKED = re.compile(r"([\\`*_{}\[\]()#+!|~$])")
_FORMATS = {
    "nf4": ["bitsandbytes", "4-bit"],
    "fp4": ["bitsandbytes", "4-bit"],
    "int8": ["bitsandbytes", "8-bit"],
    "gptq": ["gptq"],
}


def make_card(
    receipt: Receipt,
    verification: Verification,
    repo_id: str,
    *,
    license: str | None = None,
    quality: Record | None = None,
) -> ModelCard:
    """The card of a verified model.

    Args:
        receipt: what was written down when it was made.
        verification: what was found since.
        repo_id: where it will be, "org/name".
        license: its licence by the Hub's name for it; None for that of its base.
        quality: what quantization cost, with the text it was measured on; None where it was not measured.

    Raises:
        ConfigError: the licence is neither known nor given, or another than the base's is given.
    """
    card: ModelCard = ModelCard.from_template(
        card_metadata(receipt, license),
        template_path=str(TEMPLATE),
        title=escaped(repo_id.rpartition("/")[2]),
        base=_base_link(receipt),
        bits=format_bits(receipt.memory.bits_per_weight),
        method=escaped(receipt.method),
        gated=receipt.gated,
        recipe=_recipe(receipt),
        made=_made(receipt),
        memory=_table(("", "before", "after"), _memory(receipt)),
        quality=_table(("", "", ""), quality.rows()) if quality else "It was not measured.",
        loading=_loading(receipt, repo_id),
        readers=_readers(receipt),
        limits="\n".join(f"- {escaped(line)}" for line in _limits(receipt)),
        checks=_table(("check", "", "seen"), (row for check in verification.checks for row in check.rows())),
    )
    return card


def card_metadata(receipt: Receipt, license: str | None = None) -> ModelCardData:
    """What the Hub reads of a card: the place in the model tree, licence, library and tags.

    Raises:
        ConfigError: as `make_card`.
    """
    known = receipt.license
    if license is None and known is None:
        raise ConfigError(
            f"the licence of {receipt.source.name} is not known, and none is made up: look at its page and give it, "
            "license='apache-2.0' for example, by the Hub's name for it (https://huggingface.co/docs/hub/repositories-licenses)"
        )
    if license is not None and known is not None and license != known:
        raise ConfigError(f"license={license!r}, but {receipt.source.name} stands under {known!r}: leave it out")
    named: dict[str, Any] = {"license": known or license}
    if _is_hub_id(receipt.source.name):
        named |= {"base_model": receipt.source.name, "base_model_relation": "quantized"}
        if named["license"] == "other":
            # The Hub asks for its name and where it stands.
            named |= {"license_name": "as-the-base-model", "license_link": _page(receipt.source.name)}
    tags = [*_FORMATS.get(receipt.method, [receipt.method]), "quantized", "qtoolkit"]
    if receipt.method == "gptq":
        tags.insert(1, f"{receipt.settings['bits']}-bit")
    return ModelCardData(library_name="transformers", pipeline_tag="text-generation", tags=tags, **named)


def escaped(text: str) -> str:
    r"""A text that Markdown shows as it is, on one line.

    Example:
        >>> print(escaped("a_b <b> | [x](y)"))
        a\_b &lt;b&gt; \| \[x\]\(y\)
    """
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKED.sub(r"\\\1", plain)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(escaped, row))} |" for row in rows)])


def _base_link(receipt: Receipt) -> str:
    name, commit = receipt.source.name, receipt.source.commit_hash
    shown = f"[{escaped(name)}]({_page(name)})" if _is_hub_id(name) else escaped(name)
    return f"{shown} (commit `{commit}`)" if commit else shown


def _recipe(receipt: Receipt) -> str:
    options = ", ".join(f"{name}={_python(value)}" for name, value in receipt.settings.items())
    config = config_class(receipt.method).__name__
    revision = f", revision={receipt.source.commit_hash!r}" if receipt.source.commit_hash else ""
    call = f'qt.quantize({_python(receipt.source.name)}, qt.{config}({options}), output="output"{revision})'
    return f"import qtoolkit as qt\n\n{call}"


def _made(receipt: Receipt) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in receipt.versions.items())
    peak, parts = receipt.memory.peak, [f"Made on {', '.join(receipt.hardware)} ({receipt.device}), with {versions}."]
    if peak is not None:
        parts.append(f"It took {format_seconds(peak.seconds)} and {format_bytes(peak.peak_rss)} of memory at most.")
    if receipt.calibration is not None:
        told = receipt.calibration
        parts.append(f"Calibrated on {told.num_samples} samples of {told.seq_len} tokens: {told.text}.")
    return escaped(" ".join(parts))


def _memory(receipt: Receipt) -> list[tuple[str, str, str]]:
    memory = receipt.memory
    rows = [("in memory", format_bytes(memory.footprint_before), format_bytes(memory.footprint_after))]
    if memory.disk_after is not None:
        before = "not known" if memory.disk_before is None else format_bytes(memory.disk_before)
        rows.append(("on disk", before, format_bytes(memory.disk_after)))
    return rows


def _loading(receipt: Receipt, repo_id: str) -> str:
    first = "" if receipt.method in _FORMATS else "import qtoolkit  # lets transformers know its layers\n"
    return (
        f"{first}from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{repo_id}", device_map="auto")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}")'
    )


def _readers(receipt: Receipt) -> str:
    if receipt.method not in _FORMATS:
        return "Only qtoolkit has these layers: `import qtoolkit` comes first."
    if receipt.method == "gptq":
        told = "It needs `pip install optimum gptqmodel`, or `import qtoolkit` before it."
        return f"{told} vLLM and SGLang name GPTQ among their formats; this model was not tried with them."
    told = "It needs `pip install bitsandbytes`."
    return f"{told} vLLM names bitsandbytes among its formats; this model was not tried with it."


def _limits(receipt: Receipt) -> list[str]:
    lines = [f"{count} module{'s' * (count > 1)}: {why}" for why, count in receipt.skipped.items()]
    lines += [f"{receipt.num_layers} linear layers are quantized, and their outputs differ from the base's"]
    if receipt.calibration is None:
        lines.append("no calibration text was used")
    return [*lines, *receipt.notes]


def _python(value: Any) -> str:
    """A value as Python, which cannot end the block of code that it stands in."""
    return repr(value).replace("`", "")


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def _page(name: str) -> str:
    return f"https://huggingface.co/{name}"
