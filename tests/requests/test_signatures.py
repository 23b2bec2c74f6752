"""The signatures of the verbs, which are made from their requests."""

import inspect
import re

import pytest

import qtoolkit as qt

PROGRESS = "Callable[[ProgressEvent], None] | None = None"
FOR = "for_: str | None = None"
CHECK = "Callable[[Check], None] | None = None"
TEXT = "text: Any = 'wikitext2', seq_len: int = 512, num_tokens: int = 16384, stride: int | None = None"
SOURCE = "revision: str | None = None, token: str | None = None, tokenizer: Any = None"
PATH = "str | PathLike[str]"
# As they were written by hand; of keywords the order does not count.
SIGNATURES = {
    "quantize": f"(model: Any, config: MethodConfig | str | Any, *, output: {PATH} | None = None, "
    f"device: str = 'auto', {SOURCE}, resume: bool = True, resume_repo: str | None = None, overwrite: bool = False, "
    f"executor: Executor | None = None, retries: int = 2, {FOR}, on_progress: {PROGRESS}) -> QuantizedModel",
    "plan": "(model: Any, config: MethodConfig | str | Any, *, device: str = 'auto', "
    f"output: {PATH} | None = None, {SOURCE}, machine: str | Machine | None = None, context: int = 4096, "
    f"batch_size: int = 1, workers: int | None = None, {FOR}) -> Plan",
    "load": f"(model: {PATH}, *, device: str = 'auto', dtype: str | torch.dtype = 'auto', {SOURCE}) "
    "-> QuantizedModel | PreTrainedModel",
    "evaluate": f"(model: Any, *, base: Any | None = None, {TEXT}, noise_floor: bool = False, speed: bool = True, "
    f"executor: Executor | None = None, retries: int = 2, device: str = 'auto', {SOURCE}, on_progress: {PROGRESS}) -> "
    "QualityReport",
    "compare": f"(model: Any, configs: Sequence[Any], *, {TEXT}, prompts: Sequence[str] = (), "
    "memory: int | str | None = None, noise_floor: bool = False, speed: bool = True, executor: Executor | None = None, "
    f"retries: int = 2, output: {PATH} | None = None, resume: bool = True, device: str = 'auto', {SOURCE}, "
    f"on_progress: {PROGRESS}) -> Comparison",
    "convert": f"(model: {PATH}, format: str, output: {PATH}, *, lossy: bool = False, wider: bool = False, "
    f"base: {PATH} | None = None, overwrite: bool = False, executor: Executor | None = None, retries: int = 2, {FOR}, "
    f"revision: str | None = None, token: str | None = None, on_progress: {PROGRESS}) -> Conversion",
    "frontier": f"(model: Any, configs: Sequence[Any] | None = None, *, {TEXT}, sizes: Sequence[int | str] = (), "
    "memory: int | str | None = None, noise_floor: bool = False, speed: bool = True, executor: Executor | None = None, "
    f"retries: int = 2, output: {PATH} | None = None, resume: bool = True, device: str = 'auto', {SOURCE}, "
    f"on_progress: {PROGRESS}) -> Frontier",
    "merge": f"(model: Any, adapter: {PATH}, *, config: Any | None = None, base: {PATH} | None = None, "
    "into_codes: bool = False, text: Any = None, seq_len: int = 512, num_tokens: int = 4096, "
    f"output: {PATH} | None = None, resume: bool = True, resume_repo: str | None = None, overwrite: bool = False, "
    f"device: str = 'auto', revision: str | None = None, token: str | None = None, on_progress: {PROGRESS}) "
    "-> QuantizedModel",
    "repair": f"(model: Any, base: Any, output: {PATH}, *, rank: int = 32, target_size: int | str | None = None, "
    "in_8_bits: bool = False, resume: bool = True, calibration: Any = 'wikitext2', "
    "num_samples: int = 128, text: Any = 'wikitext2', seq_len: int = 512, num_tokens: int = 16384, "
    "overwrite: bool = False, device: str = 'auto', revision: str | None = None, token: str | None = None, "
    f"on_progress: {PROGRESS}) -> Repair",
    "recommend": "(model: Any | list[Any], *, memory: int | str | None = None, goal: str = 'quality', "
    "device: str = 'auto', machine: str | Machine | None = None, context: int = 4096, revision: str | None = None, "
    f"token: str | None = None, {FOR}) -> Recommendation",
    "run_tasks": f"(model: Any, tasks: {PATH} | Sequence[{PATH}], *, limit: int | None = None, "
    "num_fewshot: int | None = None, batch_size: int = 8, tokenizer: Any = None) -> TaskReport",
    "verify": f"(path: {PATH}, *, license: str | None = None, base: {PATH} | None = None, {FOR}, "
    f"on_progress: {PROGRESS}, on_check: {CHECK}) -> Verification",
    "publish": f"(path: {PATH}, repo_id: str, *, private: bool = True, create_pr: bool = False, dry_run: bool = False, "
    f"token: str | None = None, revision: str = 'main', base: {PATH} | None = None, license: str | None = None, "
    "base_model: str | None = None, base_model_relation: str | None = None, "
    "quality: QualityReport | Sequence[QualityReport] | None = None, "
    f"frontier: Frontier | None = None, also: Sequence[{PATH}] = (), "
    f"on_progress: {PROGRESS}, on_check: {CHECK}) -> Publication",
    "find_models": "(text: str = '', *, limit: int = 20, hub: bool = True, token: str | None = None) -> FoundModels",
}


def split(signature: str) -> tuple[str, set[str], str]:
    """What comes before the keywords, the keywords, and what is returned; commas in brackets do not part."""
    positional, _, rest = signature.partition(", *, ")
    keywords, _, returned = rest.rpartition(") -> ")
    return positional, set(re.split(r", (?=\w+: )", keywords)), returned


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_verb_takes_what_it_always_took(name: str) -> None:
    text = str(inspect.signature(getattr(qt, name)))
    text = re.sub(r"\b(?:qtoolkit|collections|concurrent|typing|os|collections\.abc)\.(?:\w+\.)*(?=[A-Z])", "", text)
    text = re.sub(r"'([^',]* \| [^',]*|torch.dtype)'", r"\1", text)
    assert split(text) == split(SIGNATURES[name])


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_argument_is_described(name: str) -> None:
    verb = getattr(qt, name)
    described = re.findall(r"^    ([\w, ]+): ", inspect.getdoc(verb) or "", re.MULTILINE)
    assert set(inspect.signature(verb).parameters) <= {one for names in described for one in names.split(", ")}
    assert "...." not in (verb.__doc__ or "")


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((), {}, r"quantize\(\) missing a required argument: 'model'"),
        (("m",), {}, r"quantize\(\) missing a required argument: 'config'"),
        (("m", "nf4", "o"), {}, r"quantize\(\) takes 2 positional arguments but 3 were given"),
        (("m", "nf4"), {"out": "o"}, r"quantize\(\) got an unexpected keyword argument 'out': did you mean output\?$"),
        (("m", "nf4"), {"colour": "o"}, r"quantize\(\) got an unexpected keyword argument 'colour'$"),
    ],
    ids=["nothing", "no config", "too many", "nearly", "unknown"],
)
def test_a_wrong_call_names_the_verb(args: tuple[str, ...], options: dict[str, str], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        qt.quantize(*args, **options)


@pytest.mark.parametrize("token", [-1, True, b"hf_secret", ["hf_secret"]])
def test_a_token_of_another_type_is_refused_in_one_line(token: object) -> None:
    with pytest.raises(qt.QToolkitError, match=r"^token must be a text, got \w+: give one, or leave it out$"):
        qt.load("m", token=token)  # type: ignore[arg-type]
