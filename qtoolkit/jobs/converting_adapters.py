"""Write a LoRA adapter of peft as a file of another program, whose model stands in such a file too."""

import time
from pathlib import Path

from qtoolkit.adapters.adapter_folder import ADAPTER_WEIGHTS
from qtoolkit.adapters.adapter_reading import read_adapter
from qtoolkit.checkpoints.hub_names import is_hub_id
from qtoolkit.errors import ConfigError
from qtoolkit.files import path_of
from qtoolkit.formats import FileFormat, available_formats, get_format
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.measure.guard import explained
from qtoolkit.models.output_checks import refuse_own_source
from qtoolkit.records import Conversion
from qtoolkit.requests import ConvertRequest, ModelSource
from qtoolkit.stream.staging import check_output, staged


@explained("converting", "free some: the adapter is in memory")
def convert_adapter(request: ConvertRequest) -> Conversion:
    """Convert an adapter, as `qtoolkit.convert` describes."""
    started = time.monotonic()
    source, folder = path_of(request.model, "model"), path_of(request.output, "output")
    if request.executor is not None:
        raise ConfigError(f"{source.name} is an adapter, which is converted in one process: leave out executor")
    target = get_format(request.format) if request.format in available_formats() else None
    if not isinstance(target, FileFormat):
        raise ConfigError(
            f"{source.name} is an adapter, which format={request.format!r:.40} does not hold: give 'gguf'"
        )
    refuse_own_source(source, folder)
    check_output(folder, overwrite=request.overwrite)
    adapter = read_adapter(source)
    base = request.base or adapter.base
    if base is None or (request.base is None and not Path(base).exists() and not is_hub_id(base)):
        raise ConfigError(
            f"{source.name} names {base!r} as its base, which is not here: give base=, its folder or Hub id"
        )
    checkpoint = open_source(base, ModelSource(token=request.token), quantized=True, headers_only=True)
    file = f"{source.name}{target.suffix}"
    with staged(folder, overwrite=request.overwrite) as partial:
        target.write_adapter(partial / file, adapter.changes, config=checkpoint.config, name=source.name)
        size = (partial / file).stat().st_size
    return Conversion(
        model=str(request.model),
        commit_hash=None,
        source_format="peft",
        format=target.name,
        method="lora",
        num_layers=len(adapter.changes),
        disk_before=(source / ADAPTER_WEIGHTS).stat().st_size,
        disk_after=size,
        readers=f"{target.program} (--lora {file})",
        notes=(f"for models in {target.suffix} files that were made from {checkpoint.name}",),
        path=str(folder),
        seconds=time.monotonic() - started,
    )
