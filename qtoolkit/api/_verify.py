"""Define the verb `verify`."""

from qtoolkit import publishing
from qtoolkit.jobs.verifying_adapters import holds_adapter, verify_adapter
from qtoolkit.records import Verification
from qtoolkit.requests import VerifyRequest, verb


@verb(VerifyRequest)
def verify(request: VerifyRequest) -> Verification:
    """Prove that a saved model is what it says, and works elsewhere: check by check, each with what was seen.

    Files are looked at here, and nothing of the folder is run that is not safetensors. A fresh process, which has none
    of this one's variables but those that torch needs, no network and no other program's socket if the kernel can
    take them away, and no qtoolkit unless the format needs it, then loads the folder with transformers: once more the
    memory of the model. Logits and perplexity are compared with those that the job measured and wrote into
    `qtoolkit.json`; tokenizer and generation config with the base's, or, if that cannot be read in two minutes and
    2 GB of memory, with those in `qtoolkit.json`. What cannot be checked here is reported as not checked.

    Without its `qtoolkit.json`, a folder is judged by what its files alone tell. The base is a folder or a Hub id in
    the local cache; by default the one that `qtoolkit.json` names, if it is in the cache.

    A folder with an adapter is checked together with its base, the quantized model that `base` names: hashes of both,
    shapes of layers, what both compute beside the figures in `qtoolkit_adapter.json`, and that peft computes the same.

    `on_progress` is also called ten times a second while the model is loaded and run; `JobCancelled` ends that process.

    Raises:
        ModelNotFoundError: there is no such folder, no model in it, or no such base on this machine.
    """
    return verify_adapter(request) if holds_adapter(request.path) else publishing.verify(request)
