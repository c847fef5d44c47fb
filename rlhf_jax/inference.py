"""A network in use: found in a run or an exported folder, and asked for texts, scores and likelihoods.

    from rlhf_jax import inference
    print(inference.load("runs/mini", "ppo").write(["text of a post"]))

Everything here takes lists and gives lists or NumPy arrays, in order, whatever the batches. It uses the mesh
that is set; where none is, it sets one over all devices.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils.epath import Path
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from rlhf_jax.config import Config, ConfigError, DataConfig, ModelConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.batches import Batch, Plan, QueryPlan, ResponsePlan
from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.records import Record
from rlhf_jax.data.task import Task
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.files import read_object
from rlhf_jax.functional import rewards
from rlhf_jax.mesh import abstract_rows, in_rows_of, make_mesh, row_shards, to_devices, to_host
from rlhf_jax.model import heads, lora, params, pretrained, transformer
from rlhf_jax.model.generate import generate
from rlhf_jax.model.likelihood import response_logprobs
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.checkpoint import CheckpointError, read_meta
from rlhf_jax.run.hosts import progress_bar
from rlhf_jax.run.steps import finished
from rlhf_jax.run.stored_config import from_dict, to_dict
from rlhf_jax.training import adapters, inputs

SHOWN_AFTER = 10  # seconds without a progress bar
BATCH_SIZE = 128  # rows computed at once, by up to as many row shards
TASK_FILE = "task.json"  # of an exported folder: how its texts are to be read
TASK_FIELDS = (  # of DataConfig, that stand there
    "source template_variables query_tokens response_tokens reward_response_tokens query_buckets "
    "padding".split()
)
PLACED = "layer_loop attention rematerialize rematerialize_but gather_to_sample".split()  # how it is computed

write = jax.jit(generate, static_argnames="config response_tokens eos_ids pad_id temperature samples".split())
read = jax.jit(heads.scores, static_argnames=("config", "pad_id"))


@functools.partial(jax.jit, static_argnames=("config", "pad_id"))
def response_logp(weights, config: ModelConfig, query, responses, pad_id: int):
    """Log-probability [B, 1] of the one whole response to each query, nats."""
    response = in_rows_of(responses, responses[:, 0])
    logp, _ = response_logprobs(weights, config, query, response, pad_id, temperature=1.0)
    return jnp.sum(jnp.where(response != pad_id, logp, 0.0), axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnames=("model", "response_tokens", "eos_ids", "pad_id", "temperature"))
def draw(policy, reference, query: Int[Array, "B Q"], key: jax.Array, model: ModelConfig, **sampling):
    """Responses [B, R] of the policy, and log π(response) − log π_ref(response) [B] through EOS, in nats.

    Both log-probabilities are at the temperature; the second result is 1 draw of the KL. `sampling` is
    that of `generate`.
    """
    response = generate(policy, model, query, key, **sampling)
    how = model, query, response, sampling["pad_id"], sampling["temperature"]
    (logp, _), (ref_logp, _) = (response_logprobs(weights, *how) for weights in (policy, reference))
    mask = rewards.response_mask(response, sampling["eos_ids"], sampling["pad_id"])
    return response, jnp.sum(jnp.where(mask, logp - ref_logp, 0.0), axis=1)


class NetworkError(ValueError):
    """A network that is not where it was looked for, or that cannot do what it was asked."""


@dataclass(frozen=True)
class Network:
    """A policy, or a reward model, with all that it takes to use it. A text may stand for a record."""

    trained: Any  # of transformer.specs, or with the scalar head of heads.specs; with a base, adapters of it
    model: ModelConfig
    tokenizer: Tokenizer
    task: Task
    base: Any = field(default_factory=dict)  # frozen, as `adapters.base_of` gives it

    @property
    def weights(self) -> Any:
        """What model/ computes with: what is trained, beside its base."""
        return lora.attach(self.base, self.trained)

    @property
    def is_scalar(self) -> bool:
        """Whether it scores responses; a policy writes them."""
        return "transformer" in self.trained

    def on(self, task: Task) -> "Network":
        """The same network on another task."""
        return replace(self, task=task)

    def write(self, records: Sequence[Record | str], temperature: float = 0.0, seed: int = 0) -> list[str]:
        """One response a record, in order; greedy without a temperature."""
        return [texts[0] for texts in self.samples(records, 1, temperature, seed)]

    def samples(
        self, records: Sequence[Record | str], count: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[str]]:
        """`count` responses to each record, which is read once; in order."""
        self._check(scalar=False)
        data, tokenizer = self.task.data, self.tokenizer
        written: list[list[str]] = [[] for _ in records]
        with on_devices() as mesh:
            rows = batch_size(row_multiple(mesh), count)
            plan = QueryPlan(self._records(records), tokenizer, self.task, rows, seed)
            for i, (batch, valid) in enumerate(_shown(plan, len(records), mesh, "posts summarized")):
                responses = write(
                    self.weights,
                    self.model,
                    to_devices(batch["query"], mesh),
                    jax.random.fold_in(jax.random.key(seed), i),
                    response_tokens=data.response_tokens,
                    eos_ids=tokenizer.eos_ids,
                    pad_id=tokenizer.pad_id,
                    temperature=temperature,
                    samples=count,
                )
                of_each = to_host(responses).reshape(-1, count, data.response_tokens)
                for row, own in zip(batch["index"][:valid], of_each, strict=False):
                    written[row] = [self.task.text(tokenizer.decode(response)) for response in own]
        return written

    def samples_with_kl(
        self, reference: "Network", records: Sequence[Record | str], temperature: float, seed: int
    ) -> tuple[list[str], Float[np.ndarray, "M"]]:
        """One response a record, and its draw of the KL from the policy `reference`, in order."""
        self._check(scalar=False)
        tokenizer = self.tokenizer
        texts, kl = [""] * len(records), np.empty(len(records), np.float32)
        with on_devices() as mesh:
            shards = row_shards(mesh)
            plan = QueryPlan(self._records(records), tokenizer, self.task, batch_size(shards), seed)
            for i, (batch, valid) in enumerate(plan.in_order(shards)):
                responses, drawn = draw(
                    self.weights,
                    reference.weights,
                    to_devices(batch["query"], mesh),
                    jax.random.fold_in(jax.random.key(seed), i),
                    model=self.model,
                    response_tokens=self.task.data.response_tokens,
                    eos_ids=tokenizer.eos_ids,
                    pad_id=tokenizer.pad_id,
                    temperature=temperature,
                )
                rows = batch["index"][:valid]
                kl[rows] = to_host(drawn)[:valid]
                for row, response in zip(rows, to_host(responses), strict=False):
                    texts[row] = self.task.text(tokenizer.decode(response))
        return texts, kl

    def scores(
        self, records: Sequence[Record | str], responses: Sequence[Sequence[str]]
    ) -> Float[np.ndarray, "M N"]:
        """The reward model's score of each of N responses to M records, which are read once."""
        self._check(scalar=True)
        return self._of_each(read, records, responses)

    def score(self, records: Sequence[Record | str], responses: Sequence[str]) -> Float[np.ndarray, "M"]:
        """The score of one response to each record."""
        return self.scores(records, [[text] for text in responses])[:, 0]

    def margins(self, pairs: Sequence[Pair]) -> Float[np.ndarray, "M"]:
        """By how much each pair's preferred response scores above the other."""
        both = self.scores([pair.info for pair in pairs], [(pair.chosen, pair.rejected) for pair in pairs])
        return both[:, 0] - both[:, 1]

    def log_likelihood(
        self, records: Sequence[Record | str], responses: Sequence[str]
    ) -> Float[np.ndarray, "M"]:
        """Log-probability that a policy gives each response with its end, nats at temperature 1."""
        self._check(scalar=False)
        return self._of_each(response_logp, records, [[text] for text in responses])[:, 0]

    def _records(self, records: Sequence[Record | str]) -> list[Record]:
        if isinstance(records, str):  # which would be read letter by letter
            raise NetworkError("texts are a list, of one too: write([text])")
        return [self.task.record_of(one) if isinstance(one, str) else one for one in records]

    def _check(self, scalar: bool) -> None:
        if self.is_scalar and not scalar:
            raise NetworkError("a reward model scores responses and writes none: ask a policy")
        if scalar and not self.is_scalar:
            raise NetworkError("a policy writes responses and scores none: ask a reward model")

    def _of_each(
        self, measure: Callable, records: Sequence[Record | str], responses: Sequence[Sequence[str]]
    ) -> Float[np.ndarray, "M N"]:
        with on_devices() as mesh:
            rows, count = row_multiple(mesh), len(responses[0])
            size = batch_size(rows, count)
            plan = ResponsePlan(self._records(records), responses, self.tokenizer, self.task, size)
            values = np.empty((len(records), count), np.float32)
            for batch, valid in _shown(plan, len(records), mesh, "texts read"):
                query, texts = (to_devices(batch[name], mesh) for name in ("query", "responses"))
                measured = measure(self.weights, self.model, query, texts, self.tokenizer.pad_id)
                values[batch["index"][:valid]] = to_host(measured)[:valid]
        return values


# Finding and loading -------------------------------------------------------------------------


def load(
    folder: str | PathLike[str], name: str = "", *, config: Config | None = None, task: Task | None = None
) -> Network:
    """The network `name` of the run in `folder`; without a name, that of `folder` itself.

    Without a name, `folder` is an exported model or a pretrained one, or the checkpoints of a network, such
    as runs/mini/checkpoints/ppo. The configuration and the task are those of the run, or of the exported
    folder, unless they are given. Raises NetworkError where there is none, CheckpointError where no step of
    it is whole.
    """
    place = Path(folder).expanduser()
    if not name and place.absolute().parent.name == "checkpoints":
        place, name = place.absolute().parents[1], place.name
    if not name and (place / "checkpoints").is_dir():
        raise NetworkError(f"{folder} is a work folder: which of its networks? For example load(…, 'ppo')")
    if not name and not (place / "config.json").is_file():
        raise NetworkError(f"{folder} is neither an exported model nor checkpoints/NAME of a work folder")
    with on_devices():
        if name:
            return _of_run(place, name, config, task)
        return _of_folder(place, config, task)


def policies_of(workdir: str | PathLike[str]) -> list[str]:
    """The policies of a run that have a whole checkpoint, in the order of its stages."""
    folder = Path(workdir) / "checkpoints"
    names = dict.fromkeys([*runs.networks(Path(workdir)), *sorted(path.name for path in folder.iterdir())])
    steps = {name: checkpoint.latest_step(folder / name) for name in names}
    return [
        name for name, step in steps.items() if step and not _is_scalar(name, read_meta(folder / name, step))
    ]


def describe(model: ModelConfig, scalar: bool = False) -> dict[str, Any]:
    """What a checkpoint keeps of its network beside the weights, in `meta`: enough to load it alone.

    Adapters also need their base, whose digest it is.
    """
    base = {"base": inputs.of_base(model.pretrained)} if model.lora.rank else {}
    return {"model": asdict(model), "scalar": scalar} | base


def architecture_of(config: Config, name: str, meta: Mapping[str, Any]) -> ModelConfig:
    """The architecture of network `name` of a run, as `describe` put it, computed as the run's fields say.

    Checkpoints of older versions do not hold it: then it is that of the base model.
    """
    base = config.sft.bigger_pretrained if name == "sft_10x" else config.model.pretrained
    if "model" not in meta:
        return pretrained.architecture(replace(config.model, pretrained=base))
    model = from_dict(meta["model"], ModelConfig)
    placed = {field: getattr(config.model, field) for field in PLACED}
    placed |= {"pretrained": base} if model.lora.rank else {}  # which adapters need, wherever it lies now
    return replace(model, **placed)


def architecture_in(workdir: str | PathLike[str], config: Config, name: str = "sft") -> ModelConfig:
    """The architecture of network `name` of a run; once it has a checkpoint, without its base model."""
    folder = Path(workdir) / "checkpoints" / name
    meta: Mapping[str, Any] = {}
    for step in finished(folder):
        with suppress(CheckpointError):  # of a damaged one tells who reads its weights
            meta = read_meta(folder, step)
    return architecture_of(config, name, meta)


def task_fields(data: DataConfig) -> dict[str, Any]:
    """What an exported folder keeps of a task: enough to read its texts, if it is one of this package."""
    return {name: value for name, value in to_dict(data).items() if name in TASK_FIELDS}


def _of_run(workdir: Path, name: str, config: Config | None, task: Task | None) -> Network:
    step = checkpoint.require(workdir, name)
    meta, config = read_meta(*step), config or runs.read_config(workdir)
    model = architecture_of(config, name, meta)
    task = task or tasks.find(config.data, config.seed)
    tokenizer = task.load_tokenizer(workdir)
    specs = (heads if _is_scalar(name, meta) else transformer).specs(model, tokenizer.vocab_size)
    like = adapters.abstract_trained(specs, model, jax.sharding.get_mesh())
    base = adapters.base_of(model, tokenizer.vocab_size, expected=meta.get("base"))
    return Network(checkpoint.restore_params(*step, like), model, tokenizer, task, base)


def _is_scalar(name: str, meta: Mapping[str, Any]) -> bool:
    return meta.get("scalar", name.startswith("reward"))  # older versions did not say


def _of_folder(folder: Path, config: Config | None, task: Task | None) -> Network:
    computed = config.model if config else ModelConfig()
    if task is None:
        stored = read_object(folder / TASK_FILE, ConfigError, missing={})
        task = tasks.find(from_dict(stored, DataConfig), 0)
    model, tokenizer = pretrained.architecture(computed, str(folder)), task.load_tokenizer(folder)
    scalar = "ForSequenceClassification" in str(read_object(folder / "config.json", ConfigError))
    if model.lora.rank and str(folder) == str(pretrained.folder_of(model.pretrained)):  # a run's base itself
        return Network({}, model, tokenizer, task, adapters.base_of(model, tokenizer.vocab_size))
    specs = heads.specs if scalar else transformer.specs
    like = params.abstract(specs(model, tokenizer.vocab_size), jax.sharding.get_mesh())
    return Network(pretrained.load(folder, like), model, tokenizer, task)


# Batches -------------------------------------------------------------------------------------


@contextmanager
def on_devices() -> Iterator[Mesh]:
    """The mesh that is set; where none is, one over all devices, set meanwhile."""
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
        yield mesh
        return
    with jax.set_mesh(make_mesh()):
        yield jax.sharding.get_mesh()


def row_multiple(mesh: Mesh) -> int:
    """What the rows of a batch are a multiple of: the row shards, but two at least.

    JAX does not say how an axis of one row is split, and refuses to index such a one.
    """
    return max(2, row_shards(mesh))


def batch_size(multiple: int, responses: int = 1) -> int:
    """Records computed at once, with so many responses to each: BATCH_SIZE rows in all, rounded up."""
    return -(-BATCH_SIZE // (responses * multiple)) * multiple


def _shown(plan: Plan, rows: int, mesh: Mesh, what: str) -> Iterator[tuple[Batch, int]]:
    """The batches of `plan.in_order()`, with a bar where they take long."""
    with progress_bar(rows, what, delay=SHOWN_AFTER, leave=False) as bar:
        for batch, valid in plan.in_order(row_multiple(mesh)):
            yield batch, valid
            bar.update(valid)


# For plans -----------------------------------------------------------------------------------


def traced_write(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """`write` as best-of-N samples, in its longest bucket, without values. Needs a mesh set."""
    mesh, samples = jax.sharding.get_mesh(), config.eval.best_of
    trained = adapters.abstract_trained(transformer.specs(model, vocabulary), model, mesh)
    return write.trace(
        lora.attach(adapters.abstract_base(model, vocabulary, mesh), trained),
        model,
        abstract_rows(mesh, (batch_size(row_multiple(mesh), samples), config.data.query_tokens)),
        jax.eval_shape(lambda: jax.random.key(0)),
        response_tokens=config.data.response_tokens,
        eos_ids=(0,),
        pad_id=vocabulary,
        temperature=config.eval.temperature,
        samples=samples,
    )


def traced_read(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """`read` as it scores best-of-N's samples, in its longest bucket, without values. Needs a mesh set."""
    data, mesh, count = config.data, jax.sharding.get_mesh(), config.eval.best_of
    rows = batch_size(row_multiple(mesh), count)
    query = abstract_rows(mesh, (rows, data.query_tokens))
    responses = abstract_rows(mesh, (rows, count, data.reward_response_tokens))
    trained = adapters.abstract_trained(heads.specs(model, vocabulary), model, mesh)
    network = lora.attach(adapters.abstract_base(model, vocabulary, mesh), trained)
    return read.trace(network, model, query, responses, vocabulary)
