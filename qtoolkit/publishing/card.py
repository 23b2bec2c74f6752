"""Make the card of a published model: what was done, measured and verified, from its receipt alone.

The card's sentences are in `card_template.md`. Every text of a receipt that stands there goes through `escaped`, or,
inside of code, through `python`: anybody may have written it.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from qtoolkit.checkpoints.filenames import PROCESSOR_FILES
from qtoolkit.checkpoints.hub_names import HUB_TEXTS, is_hub_id
from qtoolkit.checkpoints.model_class import IMAGE_CLASS, TEXT_CLASS, takes_images
from qtoolkit.errors import ConfigError
from qtoolkit.formats import FileFormat, is_uneven
from qtoolkit.hub.checked_bytes import CHECKED, CHECKED_OFFLINE
from qtoolkit.methods import config_class, find_config, get_method
from qtoolkit.publishing.card_frontier import frontier_section
from qtoolkit.publishing.card_quality import eval_results, text_name
from qtoolkit.publishing.contract_check import stored_by
from qtoolkit.publishing.lineage import Lineage, commit_of, is_copy_of_hub, is_in_memory, lineage_of
from qtoolkit.publishing.patterns import without_paths
from qtoolkit.publishing.readers import format_of_receipt, needs_qtoolkit, other_packages_of, packages_of, readers_of
from qtoolkit.readers import Stored, card_lines, served_by
from qtoolkit.records import Receipt, Verification
from qtoolkit.records.markdown import escaped, table
from qtoolkit.requests import PublishRequest
from qtoolkit.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = Path(__file__).with_name("card_template.md")
_LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"


def make_card(
    receipt: Receipt,
    verification: Verification,
    request: PublishRequest,
    stored: Stored | None = None,
    formats: str = "",
    beside: Sequence[Receipt] = (),
) -> ModelCard:
    """Return the card of a verified model.

    Args:
        receipt: what the job wrote down when it made the model.
        verification: all checks of it.
        request: where it will be, and what its publisher says of licence, base and quality.
        stored: how its folder stores it; None for what the receipt says.
        formats: Markdown on the formats or files that its repository holds; empty where there is one alone.
        beside: receipts of the other models of its branch, where each is one file.

    Raises:
        ConfigError: the licence is neither known nor given, or another than the base's is given; or as `lineage_of`.
    """
    lineage = lineage_of(receipt, request.base_model, request.base_model_relation)
    config = config_class(receipt.method)
    stored = stored or stored_by(receipt)
    programs = card_lines(stored) if stored is not None else ()
    quality = next(iter(request.reports), None)
    base_models = [lineage.base_model] if isinstance(lineage.base_model, str) else lineage.base_model or []
    metadata = card_metadata(receipt, request, lineage, stored)
    text = _template().render(
        card_data=metadata.to_yaml(),
        receipt=receipt,
        is_converted=receipt.taken_over is not None and receipt.taken_over.is_of_base,
        lineage=lineage,
        request=request,
        revision="" if request.revision == "main" else f", revision={_python(request.revision)}",
        formats=formats,
        name=request.repo_id.rpartition("/")[2],
        method=get_method(receipt.method),
        auto_class=IMAGE_CLASS if _takes_images(receipt) else TEXT_CLASS,
        has_processor=any(name in PROCESSOR_FILES for name in receipt.files),
        bits=_bits(receipt),
        copied=_copied(receipt),
        base_models="" if is_copy_of_hub(receipt) else " and ".join(map(_link, base_models)),
        gate=_gate(receipt),
        packages=packages_of(receipt, stored),
        other_packages=other_packages_of(receipt, stored),
        needs_qtoolkit=needs_qtoolkit(receipt, stored),
        commands=[line for one in (receipt, *beside) for line in _commands(one, request.repo_id)],
        file_name=_file_name(receipt),
        readers=readers_of(receipt, stored),
        programs=table(("program", "loads it", "what to know"), programs) if programs else "",
        is_run=stored is not None and bool(served_by(stored)),
        quality=quality,
        quality_text=text_name(quality) if quality else "",
        figures=table(("figure", "value"), (row for row in quality.figures() if row[1])) if quality else "",
        frontier=frontier_section(request.frontier),
        # The config of another package's method is imported from there.
        config_module="" if find_config(config.__name__) is config else config.__module__,
        config_name=config.__name__,
        in_memory=is_in_memory(receipt),
        commit=commit_of(receipt),
        versions=escaped(", ".join(f"{package} {version}" for package, version in receipt.versions.items())),
        is_source_checked=receipt.source_check in (CHECKED, CHECKED_OFFLINE),
        published_texts=(*HUB_TEXTS, "self"),
        checks=table(("check", "result", "seen"), (row for check in verification.checks for row in check.rows())),
        escaped=escaped,
        python=_python,
        table=table,
        without_paths=without_paths,
        format_bytes=format_bytes,
        format_count=format_count,
        format_seconds=format_seconds,
    )
    return ModelCard(text)


@cache
def _template() -> "Template":
    """Return the card's template. `ModelCard.from_template` would compile it for each card, for as long as all else."""
    from jinja2 import Template

    template: Template = Template(TEMPLATE.read_text(encoding="utf-8"))
    return template


def card_metadata(receipt: Receipt, request: PublishRequest, lineage: Lineage, stored: Stored | None) -> ModelCardData:
    """Return what the Hub reads of a card: base model, licence, gate, library, tags and figures.

    Raises:
        ConfigError: as `make_card`.
    """
    inherited = receipt.inherited
    license = choose_license(receipt.source.name, receipt.license, request.license)
    figures = eval_results(next(iter(request.reports), None))
    own = "qtoolkit" if needs_qtoolkit(receipt, stored) else "transformers"
    is_other = license == "other"
    return ModelCardData(
        license=license,
        language=inherited.get("language"),
        base_model=lineage.base_model,
        base_model_relation=lineage.relation,
        # For a licence that it does not know, the Hub asks for its name and address.
        license_name=inherited.get("license_name") if is_other else None,
        license_link=_license_link(receipt) if is_other else None,
        extra_gated_prompt=_gate(receipt) or None,
        eval_results=figures or None,
        model_name=request.repo_id.rpartition("/")[2] if figures else None,
        library_name=format_of_receipt(receipt).library or own,
        pipeline_tag="image-text-to-text" if _takes_images(receipt) else "text-generation",
        tags=_tags(receipt),
    )


def choose_license(base: str, known: str | None, given: str | None) -> str:
    """Return the licence of a copy, which is its base's.

    Args:
        base: name of the base.
        known: its licence as its card names it; None where it names none.
        given: what the person says; None for nothing.

    Raises:
        ConfigError: both are None, or they differ.
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


def _takes_images(receipt: Receipt) -> bool:
    """Check whether a model takes images beside text; a file for other programs has its text part alone."""
    is_file = isinstance(format_of_receipt(receipt), FileFormat)
    return not is_file and takes_images(receipt.source.architecture)


def _commands(receipt: Receipt, repo_id: str) -> tuple[str, ...]:
    """Return the commands that run a model which is one file; none for another."""
    format_ = format_of_receipt(receipt)
    return format_.commands(repo_id, receipt.settings) if isinstance(format_, FileFormat) else ()


def _file_name(receipt: Receipt) -> str:
    """Return the name of the one file of a model; empty for another."""
    format_ = format_of_receipt(receipt)
    if not isinstance(format_, FileFormat):
        return ""
    return next((name for name in receipt.files if name.endswith(format_.suffix)), "")


def _tags(receipt: Receipt) -> list[str]:
    """Return the tags by which the Hub's pages filter; the format first."""
    family = format_of_receipt(receipt).tag or receipt.method
    bits = _bits(receipt)
    return [family, *([f"{bits}-bit"] if bits else []), "quantized", "qtoolkit"]


def _bits(receipt: Receipt) -> int | None:
    """Return the bits of a quantized weight; None where layers have different ones."""
    bits = get_method(receipt.method).code_bits or receipt.settings.get("bits")
    return bits if isinstance(bits, int) and not is_uneven(receipt.settings) else None


def _copied(receipt: Receipt) -> str:
    """Return what was quantized, in Markdown; of a model in memory, no more than is known."""
    source = receipt.source
    commit = commit_of(receipt)
    if is_in_memory(receipt):
        if source.name == source.architecture:
            return f"a {escaped(source.name)} in memory"
        return f"a model in memory that came from {_link(source.name)}, and whose weights are not known to be those"
    return f"{_link(source.name)} (commit `{commit}`)" if commit else _link(source.name)


def _link(name: str) -> str:
    """Return a model's name in Markdown, with a link to its page where it has one."""
    return f"[{escaped(name)}]({_page(name)})" if is_hub_id(name) else escaped(name)


def _gate(receipt: Receipt) -> str:
    """Return what people must know before they take a copy of a gated model; empty for another."""
    if not receipt.gated:
        return ""
    return (
        f"The base model, {_link(receipt.source.name)}, is handed out only to those who accept its terms. "
        "They hold for this copy too: read and accept them there."
    )


def _license_link(receipt: Receipt) -> str | None:
    """Return the address of a licence: a page, or a file beside the card that names it; nothing else is a link."""
    link = receipt.inherited.get("license_link")
    page = _page(receipt.source.name) if is_copy_of_hub(receipt) else None
    if not isinstance(link, str) or not link:
        return page
    if re.fullmatch(r"https?://[!-~]+", link):
        return link
    if not re.fullmatch(r"[\w./-]+", link):
        return page
    return f"{page}/blob/{commit_of(receipt) or 'main'}/{link}" if page else link


def _python(value: Any) -> str:
    """Return a value as Python code that cannot end the block of code in which it stands."""
    return repr(value).replace("`", "")


def _page(name: str) -> str:
    """Return the address of a model's page."""
    return f"https://huggingface.co/{name}"
