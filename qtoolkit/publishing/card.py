"""The card of a published model: what was done, measured and verified, from its receipt; nothing is made up."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from qtoolkit.checkpoints.names import HUB_TEXTS, is_hub_id
from qtoolkit.errors import ConfigError
from qtoolkit.formats import is_uneven
from qtoolkit.hub.checked_bytes import CHECKED, CHECKED_OFFLINE
from qtoolkit.methods import config_class, find_config, get_method
from qtoolkit.publishing.card_quality import describe_quality, eval_results
from qtoolkit.publishing.lineage import Lineage, commit_of, is_copy_of_hub, is_in_memory, lineage_of
from qtoolkit.publishing.markdown import escaped, listed, table
from qtoolkit.publishing.readers import format_of_receipt, needs_qtoolkit, other_packages_of, packages_of, readers_of
from qtoolkit.records import QualityReport, Receipt, Verification
from qtoolkit.units import format_bytes, format_seconds

TEMPLATE = Path(__file__).with_name("card_template.md")
_LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"


def make_card(
    receipt: Receipt,
    verification: Verification,
    repo_id: str,
    *,
    license: str | None = None,
    quality: QualityReport | None = None,
    base_model: str | None = None,
    base_model_relation: str | None = None,
) -> ModelCard:
    """The card of a verified model.

    Args:
        receipt: what was written down when it was made.
        verification: what was found since.
        repo_id: where it will be, "org/name".
        license: its licence by the Hub's name for it; None for that of its base.
        quality: what quantization cost, with the text it was measured on; None where it was not measured.
        base_model, base_model_relation: as `qtoolkit.publishing.lineage.lineage_of` takes them.

    Raises:
        ConfigError: the licence is neither known nor given, or another than the base's is given; or as `lineage_of`.
    """
    lineage = lineage_of(receipt, base_model, base_model_relation)
    card: ModelCard = ModelCard.from_template(
        card_metadata(receipt, repo_id, lineage, license, quality),
        template_path=str(TEMPLATE),
        title=escaped(repo_id.rpartition("/")[2]),
        intro=_intro(receipt, lineage),
        gated=_gate(receipt),
        loading=_loading(receipt, repo_id),
        readers=readers_of(receipt),
        quality=describe_quality(quality),
        memory=table(("", "base", "this model"), _memory(receipt)),
        recipe=_recipe(receipt),
        made=_made(receipt),
        skipped_title="What is not quantized" if get_method(receipt.method).also_changes else "What stays as it was",
        skipped=_skipped(receipt),
        limits=listed(_limits(receipt)),
        license=_license(receipt, license),
        verified=_verified(repo_id),
        checks=table(("check", "result", "seen"), (row for check in verification.checks for row in check.rows())),
    )
    return card


def card_metadata(
    receipt: Receipt,
    repo_id: str,
    lineage: Lineage,
    license: str | None = None,
    quality: QualityReport | None = None,
) -> ModelCardData:
    """What the Hub reads of a card: the place in the model tree, licence, gate, library, tags and figures.

    Raises:
        ConfigError: as `make_card`.
    """
    base, inherited = receipt.source.name, dict(receipt.inherited)
    named: dict[str, Any] = {"license": choose_license(base, receipt.license, license)}
    named["language"] = inherited.get("language")
    named |= {"base_model": lineage.base_model, "base_model_relation": lineage.relation}
    if named["license"] == "other":
        # The Hub asks for its name and where it stands.
        named |= {name: inherited.get(name) for name in ("license_name", "license_link")}
        named["license_link"] = _absolute(named["license_link"], receipt)
    if receipt.gated:
        named["extra_gated_prompt"] = _gate(receipt)
    figures = eval_results(quality)
    if figures:
        named |= {"eval_results": figures, "model_name": repo_id.rpartition("/")[2]}
    library = "qtoolkit" if needs_qtoolkit(receipt) else "transformers"
    return ModelCardData(library_name=library, pipeline_tag="text-generation", tags=_tags(receipt), **named)


def choose_license(base: str, known: str | None, given: str | None) -> str:
    """The licence of a copy: its base's.

    Args:
        base: what the base is called.
        known: its licence as its card names it; None where it names none.
        given: what the person says; None for nothing.

    Raises:
        ConfigError: neither is there, or both are and differ.
    """
    if given is not None and known is not None and given != known:
        raise ConfigError(f"license={given!r}, but {base} stands under {known!r}: leave it out")
    chosen = known or given
    if chosen is None:
        raise ConfigError(
            f"the licence of {base} is not known, and none is made up: look at its page and give it, "
            f"license='apache-2.0' for example, by the Hub's name for it ({_LICENSES})"
        )
    return chosen


def _tags(receipt: Receipt) -> list[str]:
    """What the Hub's pages filter by; the format first."""
    family = format_of_receipt(receipt).tag or receipt.method
    bits = _bits(receipt)
    return [family, *([f"{bits}-bit"] if bits else []), "quantized", "qtoolkit"]


def _bits(receipt: Receipt) -> int | None:
    """Bits of a quantized weight; None where layers have different ones."""
    bits = get_method(receipt.method).code_bits or receipt.settings.get("bits")
    return bits if isinstance(bits, int) and not is_uneven(receipt.settings) else None


def _intro(receipt: Receipt, lineage: Lineage) -> str:
    memory, bits, method = receipt.memory, _bits(receipt), get_method(receipt.method)
    name = escaped(method.title or receipt.method)
    also = f"{method.also_changes}; " if method.also_changes else ""
    kind = f"{name}, {bits} bits" if bits else f"{name}, layers with different bits"
    return (
        f"A quantized copy of {_made_of(receipt)}: {receipt.num_layers} linear layers in {kind}; {also}everything else "
        f"as it was. In memory it takes {format_bytes(memory.footprint_after)} instead of "
        f"{format_bytes(memory.footprint_before)}: {memory.bits_per_weight:.2f} bits per weight, with scales, and with "
        "what was not quantized. It was made with qtoolkit (not on PyPI, where that name belongs to another project)."
        f"{_told_base(receipt, lineage)}"
    )


def _made_of(receipt: Receipt) -> str:
    """What was quantized, in Markdown; of a model in memory, no more than is known."""
    source, commit = receipt.source, commit_of(receipt)
    if is_in_memory(receipt):
        if source.name == source.architecture:
            return f"a {escaped(source.name)} in memory"
        return f"a model in memory that came from {_link(source.name)}, and whose weights are not known to be those"
    return f"{_link(source.name)} (commit `{commit}`)" if commit else _link(source.name)


def _told_base(receipt: Receipt, lineage: Lineage) -> str:
    """A sentence on a base model that somebody else names than the receipt; empty otherwise."""
    if lineage.base_model is None or is_copy_of_hub(receipt):
        return ""
    names = [lineage.base_model] if isinstance(lineage.base_model, str) else lineage.base_model
    links = " and ".join(map(_link, names))
    return f" Its base model is {links} ({lineage.relation}), as {escaped(lineage.known_by)} says."


def _link(name: str) -> str:
    """A model's name, with its page where it has one."""
    return f"[{escaped(name)}]({_page(name)})" if is_hub_id(name) else escaped(name)


def _gate(receipt: Receipt) -> str:
    """What people must know before they take a copy of a gated model; empty for another."""
    if not receipt.gated:
        return ""
    return (
        f"The base model, {_link(receipt.source.name)}, is handed out only to those who accept its terms. "
        "They hold for this copy too: read and accept them there."
    )


def _loading(receipt: Receipt, repo_id: str) -> str:
    first = "import qtoolkit  # lets transformers know its layers\n" if needs_qtoolkit(receipt) else ""
    others = "".join(f"# and {package}, from where its authors publish it\n" for package in other_packages_of(receipt))
    return (
        f"# pip install {packages_of(receipt)}\n{others}"
        f"{first}from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{repo_id}", device_map="auto")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}")'
    )


def _memory(receipt: Receipt) -> list[tuple[str, str, str]]:
    memory = receipt.memory
    rows = [("in memory", format_bytes(memory.footprint_before), format_bytes(memory.footprint_after))]
    if memory.disk_after is not None:
        before = "not known" if memory.disk_before is None else format_bytes(memory.disk_before)
        rows.append(("weight files", before, format_bytes(memory.disk_after)))
    return rows


def _recipe(receipt: Receipt) -> str:
    # Names of options that a receipt of somebody else made up would stand in the code as they are.
    options = "".join(
        f"    {name}={_python(value)},\n" for name, value in receipt.settings.items() if name.isidentifier()
    )
    found, commit = config_class(receipt.method), commit_of(receipt)
    name = found.__name__
    # Another package's config is no name of qtoolkit.
    is_own = find_config(name) is found
    imported = "" if is_own else f"from {found.__module__} import {name}\n"
    head = f"import qtoolkit as qt\n{imported}\nconfig = {'qt.' if is_own else ''}{name}(\n{options})\n"
    if is_in_memory(receipt):
        comment = (
            f"# model: what was in memory; {_python(receipt.source.name)} does not make the same as far as is known"
        )
        return f"{head}{comment}\nqt.quantize(model, config, output='output')"
    revision = f", revision={commit!r}" if commit else ""
    return f"{head}qt.quantize({_python(receipt.source.name)}, config, output='output'{revision})"


def _made(receipt: Receipt) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in receipt.versions.items())
    peak, parts = receipt.memory.peak, [f"Made on {', '.join(receipt.hardware)} ({receipt.device}), with {versions}."]
    if receipt.source_check in (CHECKED, CHECKED_OFFLINE):
        parts.append("Every file that was read of the base had the hash by which the Hub names it.")
    elif receipt.source_check:
        parts.append("The bytes of the base were not compared with hashes that the Hub names.")
    if peak is not None:
        parts.append(
            f"It took {format_seconds(peak.seconds)}, and {format_bytes(peak.peak_rss)} of main memory at most."
        )
    if receipt.calibration is not None:
        told = receipt.calibration
        parts.append(f"Calibrated on {told.num_samples} samples of {told.seq_len} tokens of {told.text}.")
        if told.text not in (*HUB_TEXTS, "self"):
            parts.append("That text is not published, and without it the recipe does not make the same model.")
    else:
        parts.append("No calibration text was used.")
    return escaped(" ".join(parts))


def _skipped(receipt: Receipt) -> str:
    lines = [f"{count} module{'s' * (count > 1)}: {why}" for why, count in receipt.skipped.items()]
    return listed(lines) or "Nothing: every module is quantized."


def _limits(receipt: Receipt) -> list[str]:
    rounded = "Rounded weights give other outputs than the base's. Tasks differ in how much they lose by that."
    inherited = f"What the card of {receipt.source.name} tells of its limits and its use holds for this copy too."
    return [rounded, *([] if is_in_memory(receipt) else [inherited]), *receipt.notes]


def _license(receipt: Receipt, license: str | None) -> str:
    if receipt.license is None:
        return f"{escaped(str(license))}, named by who published this copy: no card of the base names one."
    return f"{escaped(receipt.license)}, as the card of {escaped(receipt.source.name)} names it."


def _verified(repo_id: str) -> str:
    name = repo_id.rpartition("/")[2]
    return (
        "Before it was published, `qt.verify` looked at every file, loaded the folder in a fresh process, and compared "
        "what it saw with `qtoolkit.json`, which the job wrote beside the weights: recipe, versions, the hash of every "
        f"file, and logits. A download is checked in the same way: `hf download {repo_id} --local-dir {name}`, then "
        f'`qt.verify("{name}")`.'
    )


def _absolute(link: Any, receipt: Receipt) -> str | None:
    """Where a licence stands: a page, or a file beside the card that names it; nothing else is a link."""
    page = _page(receipt.source.name) if is_copy_of_hub(receipt) else None
    if not isinstance(link, str) or not link:
        return page
    if re.fullmatch(r"https?://[!-~]+", link):
        return link
    if not re.fullmatch(r"[\w./-]+", link):
        return page
    return f"{page}/blob/{commit_of(receipt) or 'main'}/{link}" if page else link


def _python(value: Any) -> str:
    """A value as Python, which cannot end the block of code that it stands in."""
    return repr(value).replace("`", "")


def _page(name: str) -> str:
    return f"https://huggingface.co/{name}"
