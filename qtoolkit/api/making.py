"""Verbs that find, plan, make and read models."""

from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.files import absolute, current_folder, path_of
from qtoolkit.hub import find_models as search_models
from qtoolkit.jobs.loading import load_model
from qtoolkit.jobs.quantizing import refuse_quantized
from qtoolkit.jobs.target import meet_target, needs_measuring, refuse_without_weights
from qtoolkit.measure import explained, measure_speed, resident_memory, this_machine
from qtoolkit.methods import MethodConfig, resolve_config
from qtoolkit.models import open_checkpoint, refuse_own_source
from qtoolkit.planning import find_profile, plan_with_advice, refuse_below_one, resolve_device
from qtoolkit.planning import recommend as find_best
from qtoolkit.records import FoundModels, Machine, Plan, Recommendation, Speed, ignore_progress
from qtoolkit.stream import check_output
from qtoolkit.tokens import verb

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.quantized import QuantizedModel

Model = Any


@verb
@explained("searching", "free some, or raise that limit")
def find_models(text: str = "", *, limit: int = 20, hub: bool = True, token: str | None = None) -> FoundModels:
    """Search for models that generate text: on this machine first, then on the Hub, the most downloaded first.

    The Hub is asked once, with size, architecture, licence, terms and formats in its answer, and is not waited for
    longer than some seconds. Where it does not answer, what is on this machine is returned, and a note says why.

    Args:
        text: a part of the name, in any case; the path of a folder or a `.gguf` file finds that too. Empty for all.
        limit: how many models of the Hub; those on this machine come all.
        hub: whether the Hub is asked; False asks no network.
        token: Hub token; None for the one that huggingface_hub finds.

    Raises:
        ConfigError: a limit below 1, or a token that cannot be one.
    """
    refuse_below_one(limit=limit)
    return search_models(text, limit=limit, hub=hub, token=token)


@verb
@explained("planning", "free some, or raise that limit")
def plan(
    model: Model,
    config: MethodConfig | str | Any,
    *,
    device: str = "auto",
    output: str | PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    tokenizer: Any = None,
    machine: str | Machine | None = None,
    context: int = 4096,
    batch_size: int = 1,
) -> Plan:
    """Say what `quantize` would do to each layer, what each phase needs, and whether it fits; no weight is read.

    Of a Hub model config and headers are downloaded, some MB at most, and no weight. A config with a target is the
    exception: the sensitivity of layers is measured on weights that are on this machine, once, and kept for `quantize`.

    Args:
        model: a Hub id, a folder, a `.gguf` file, a loaded `PreTrainedModel`, or a transformers config alone.
        config: as for `quantize`.
        device: where the result would live.
        output: the folder that would be made; None for one in the current folder.
        revision, token, tokenizer: as for `quantize`.
        machine: a profile ("t4", "a100-80", "cpu-12gb", ...) or a `Machine` to plan for; None for this one, whose speed
            is measured once (two seconds).
        context, batch_size: tokens and sequences for which using the result is planned.

    Raises:
        QToolkitError: what `quantize` would refuse before work starts, too little memory and disk excepted.
    """
    refuse_quantized(model)
    refuse_below_one(context=context, batch_size=batch_size)
    settings = resolve_config(config)
    folder = absolute("output") if output is None else path_of(output, "output")
    if output is not None:
        refuse_own_source(model, folder)
        check_output(folder, overwrite=True)
    place = find_profile(machine) if isinstance(machine, str) else machine
    how: dict[str, Any] = {"revision": revision, "token": token, "tokenizer": tokenizer, "on_progress": ignore_progress}
    checkpoint = open_checkpoint(model, **how, headers_only=True)
    if needs_measuring(settings):
        refuse_without_weights(checkpoint)
        checkpoint = open_checkpoint(model, **how)
    target = resolve_device(device, place)
    # Of a GPU no speed is measured.
    here = place or this_machine(folder, measure_speed(folder) if target == "cpu" else Speed())
    rss = resident_memory()
    settings, measures = meet_target(
        checkpoint,
        settings,
        target,
        None if place else here,
        rss=rss,
        on_progress=ignore_progress,
        measuring_device=resolve_device("auto") if place else target,
    )
    options = {"context": context, "batch_size": batch_size, "measures": measures}
    return plan_with_advice(checkpoint, settings, target, here, rss=rss, **options)[1]


@verb
@explained("planning", "free some, or raise that limit")
def recommend(
    model: Model | list[Model],
    *,
    memory: int | str | None = None,
    goal: str = "quality",
    device: str = "auto",
    machine: str | Machine | None = None,
    context: int = 4096,
    revision: str | None = None,
    token: str | None = None,
) -> Recommendation:
    """Say which model in which form to take for a memory that one has; no weight is read or downloaded.

    Args:
        model: what `plan` takes, or a list of such to be compared: a larger one quantized against a smaller one as it
            is.
        memory: bytes that using it may take, or text such as "8 GB"; None for what the machine has.
        goal: "quality", "size" or "speed".
        device, machine, context, revision, token: as for `plan`.

    Raises:
        QToolkitError: as `plan`.
    """
    refuse_below_one(context=context)
    place = find_profile(machine) if isinstance(machine, str) else machine
    models = model if isinstance(model, list | tuple) else [model]
    for one in models:
        refuse_quantized(one)
    checkpoints = [
        open_checkpoint(
            one, revision=revision, token=token, tokenizer=None, on_progress=ignore_progress, headers_only=True
        )
        for one in models
    ]
    return find_best(
        checkpoints,
        place or this_machine(current_folder(), Speed()),
        device=resolve_device(device, place),
        memory=memory,
        goal=goal,
        rss=resident_memory(),
        context=context,
    )


@verb
def load(
    model: str | PathLike[str],
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    token: str | None = None,
    tokenizer: Any = None,
) -> "QuantizedModel | PreTrainedModel":
    """Read back what `quantize` wrote, any bitsandbytes or GPTQ checkpoint, or a plain model.

    Args:
        model: a folder or a Hub id.
        device: as for `quantize`.
        dtype: type of what is not quantized: "auto" for the checkpoint's own, "bfloat16", "float16", "float32".
        revision, token, tokenizer: as for `quantize`.

    Returns:
        A `QuantizedModel`, or a `PreTrainedModel` when the checkpoint is in full precision.

    Raises:
        QToolkitError: as `quantize`.
    """
    return load_model(model, device=device, dtype=dtype, revision=revision, token=token, tokenizer=tokenizer)
