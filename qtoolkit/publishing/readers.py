"""What reads a published model, for its card: what is known to, and what was not tried is told as such."""

from qtoolkit.records import Receipt

_BITSANDBYTES = ("nf4", "fp4", "int8")


def packages_of(receipt: Receipt) -> str:
    """What pip must install so that `from_pretrained` reads the model, beside torch."""
    if receipt.method in _BITSANDBYTES:
        return "transformers accelerate bitsandbytes"
    return "transformers accelerate" if needs_qtoolkit(receipt) else "transformers accelerate optimum gptqmodel"


def needs_qtoolkit(receipt: Receipt) -> bool:
    """Whether transformers reads the model only once qtoolkit is imported."""
    return receipt.method not in (*_BITSANDBYTES, "gptq") or _is_mixed(receipt)


def readers_of(receipt: Receipt) -> str:
    """Which other programs read it."""
    if receipt.method in _BITSANDBYTES:
        return "vLLM lists bitsandbytes among the formats that it reads; this model was not tried there."
    if receipt.method != "gptq":
        return "These layers are qtoolkit's own: no other program reads them."
    if _is_mixed(receipt):
        return "Its layers have different bits: gptqmodel reads that too; optimum and auto-gptq do not."
    own = "With `import qtoolkit` before it, neither optimum nor gptqmodel is needed."
    if receipt.settings.get("checkpoint_format") == "gptq_v2":
        return f"{own} Zero points are stored as gptq_v2, which auto-gptq does not read."
    listed = "vLLM and SGLang list GPTQ among the formats that they read; this model was not tried there."
    return f"{own} {listed}"


def _is_mixed(receipt: Receipt) -> bool:
    """Whether layers have different bits."""
    return bool(receipt.settings.get("rules"))
