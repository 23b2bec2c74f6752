"""Define the verb `publish`."""

from qtoolkit import publishing
from qtoolkit.jobs.publishing_adapters import publish_adapter
from qtoolkit.jobs.verifying_adapters import holds_adapter
from qtoolkit.records import Publication
from qtoolkit.requests import PublishRequest, verb


@verb(PublishRequest)
def publish(request: PublishRequest) -> Publication:
    """Put a saved model on the Hub, once `verify` has found nothing wrong with it, in one commit with its card.

    What `verify` or another call saw of unchanged files in this session counts. Files that are there already, also from
    a call that was stopped, are not sent again. A lost connection is tried again; another call goes on anywhere.

    The folder's `README.md`, if it has one, is the card; otherwise one is made. A repository or branch that does not
    exist is made. A pull request with the same files as an open one stays the only one. A dry run asks no network.

    `also` names folders with the same model in other formats, as `convert` writes them: each is verified, and goes to a
    branch named after its format. The card of `main`, which is sent last, has a table of all with the lines that load
    them. Branches, since most programs that serve models take the name of one, and of no subfolder. `.gguf` files of
    one model stand beside each other in one branch instead, since their programs choose one by its type: the card has a
    table of them, and each brings its receipt. `quality` takes a list then, of what `evaluate` measured of each folder.

    A public copy of a gated base is gated too: its owner admits who asks. `base_model` and `base_model_relation` are
    for a model of which `qtoolkit.json` does not prove what was quantized, such as one that was in memory.

    A folder with an adapter is verified with its `base`, and goes with a card that names `base_model`, where the
    quantized model is published, also as the base in the adapter's config.

    `on_progress` is called about ten times a second while files are sent; what it raises stops there. Through hf_xet a
    file's bytes count when it is complete; without it (HF_HUB_DISABLE_XET=1), as they go.

    Raises:
        VerificationError: it fails a check, does not load, or was not made by qtoolkit.
        ConfigError: an unknown licence, a name that is none, another base model than the one that it was made of,
            figures of another model, or a repository that is public already.
        GatedModelError: no token, or one that may only read; before any work.
        SourceError: the Hub refuses or does not answer; nothing of the repository has changed then.
    """
    return publish_adapter(request) if holds_adapter(request.path) else publishing.publish(request)
