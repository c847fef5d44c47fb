"""What a run is: one typed dataclass a stage; validation.py says which values can run.

`configs/x.py` has a `get_config()` that returns a `Config`; every field can be
overridden on the command line (`--config.ppo.kl_coef=0.1`). Nothing outside these
fields changes the numbers of a run.
"""

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any

FEW_SHOT_FRAME = 8  # tokens of a few-shot prompt around each post and its summary


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the field and what it may be."""


@dataclass
class MeshConfig:
    """Devices along each axis; their product is the number of devices used.

    `fsdp=-1` takes all devices that the other two axes leave.
    """

    replica: int = 1
    fsdp: int = -1
    tensor: int = 1


@dataclass(unsafe_hash=True)  # hashable: part of a static argument of compiled functions
class RotaryConfig:
    """Rotary positions and the ways of stretching them to longer contexts."""

    fraction: float = 1.0  # share of a head's dimensions that rotate
    base: float = 10_000.0
    scaling: str = "plain"  # plain | linear | llama3 | yarn
    factor: float = 1.0  # how much longer the context became
    original_context: int = 0  # before it did; llama3 and yarn
    low_frequency: float = 1.0  # llama3: turns in the original context, below which a dimension is stretched
    high_frequency: float = 4.0  # llama3: and above which it stays
    beta_fast: float = 32.0  # yarn: turns in the original context, above which a dimension stays
    beta_slow: float = 1.0  # yarn: and below which it is stretched
    attention_factor: float = 0.0  # yarn: on cosine and sine; 0: 1 + ln(factor) / 10


@dataclass(unsafe_hash=True)  # hashable: a static argument of compiled functions
class ModelConfig:
    """The decoder-only transformer. GPT-2, GPT-NeoX and Llama are settings of these fields."""

    pretrained: str = ""  # a Hugging Face folder or hub name, or mini/<name>; sets all up to `tied_head`
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 0  # 0: one key-value head a query head
    head_size: int = 0  # dimensions of a head; 0: width / heads
    ff: int = 0  # hidden units of the MLP; 0: 4 × width
    context: int = 1024  # positions a learned table holds
    norm: str = "layer"  # layer | rms
    norm_epsilon: float = 1e-5
    positions: str = "learned"  # learned | rotary
    rotary: RotaryConfig = field(default_factory=RotaryConfig)
    activation: str = "gelu_tanh"  # gelu_tanh | gelu | silu
    gated: bool = False  # of the MLP: the activation is of a second product, and multiplies the first
    parallel_residual: bool = False  # attention and MLP read the same input (GPT-NeoX)
    attention_bias: bool = True
    mlp_bias: bool = True
    tied_head: bool = True  # the token embedding is also the output matrix
    dtype: str = "float32"  # of the computation; master weights are float32
    layer_loop: str = "auto"  # scan | unroll | auto: unrolled on CPU, scanned elsewhere
    attention: str = "auto"  # blocked | splash (TPU) | cudnn (GPU) | auto: what the platform has
    rematerialize: bool = False  # recompute a layer's activations in the backward pass
    gather_to_sample: bool = True  # gather weights over fsdp once a batch of samples, not once a token

    @property
    def key_value_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_dimension(self) -> int:
        return self.head_size or self.width // self.heads

    @property
    def hidden_units(self) -> int:
        return self.ff or 4 * self.width


@dataclass
class OptimizerConfig:
    """AdamW; the schedule runs from `learning_rate` to 0 over the stage's updates."""

    learning_rate: float = 1e-4
    schedule: str = "cosine"  # cosine | linear | constant
    warmup: int = 0  # updates of linear warm-up
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-5
    weight_decay: float = 0.0
    clip_norm: float = 0.0  # clip the global gradient norm to this; 0: no clipping


@dataclass
class DataConfig:
    source: str = "tldr"  # the task: a file of data/tasks/ (tldr, cnndm, mini, mini_news), or my_task.py
    posts: str = ""  # folder with {train,valid,test}.jsonl; empty: OpenAI's set, downloaded to `cache`
    queries: str = ""  # posts for PPO: a folder, or published: OpenAI's larger set; empty: the same posts
    comparisons: str = ""  # folder or glob of comparison records; empty: OpenAI's, downloaded
    url: str = "https://openaipublic.blob.core.windows.net/summarize-from-feedback"
    cache: str = "~/.cache/rlhf_jax"
    filters: bool = False  # apply the paper's filters (OpenAI's files already passed them)
    tokenizer: str = ""  # a model file or tokenizer.json; empty: the pretrained model's, or trained
    vocabulary: int = 8192  # pieces of a tokenizer trained here
    query_tokens: int = 512
    response_tokens: int = 53  # of a generated summary, EOS included
    reward_response_tokens: int = 128  # of a summary that the reward model reads
    query_buckets: tuple[int, ...] = (128, 256, 384, 512)  # padded query lengths
    padding: str = "masked"  # masked | space: what fills a query's left
    mini_posts: int = 12_000  # the miniature: posts in train
    mini_pairs: int = 24_000  # the miniature: labelled comparisons in train
    mini_sampled: int = 4_000  # the miniature: train posts that the SFT policy summarizes for comparison
    mini_test: int = 1_000  # the miniature: posts in valid and in test


@dataclass
class SftConfig:
    batch_size: int = 128  # posts a step
    epochs: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=6.35e-5))
    query_loss: bool = False  # also learn the query's tokens (N+)
    pack: bool = True  # several posts a row
    microbatches: int = 1  # gradient accumulation: parts a batch is computed in
    save_every: int = 500
    best: str = ""  # metric whose best checkpoint later stages read, e.g. -loss; empty: the newest one
    bigger_pretrained: str = ""  # also fine-tuned, as `sft_10x`, for comparison; empty: none


@dataclass
class RewardConfig:
    batch_size: int = 64  # pairs a step
    epochs: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1.5e-5))
    seeds: int = 1  # models trained; the best on validation is kept
    batches: tuple[str, ...] = ()  # labelling batches to train on, e.g. batch3; empty: all
    microbatches: int = 1
    save_every: int = 500
    best: str = ""  # the same, e.g. accuracy


@dataclass
class PpoConfig:
    episodes: int = 1_000_000
    batch_size: int = 512  # episodes an iteration
    epochs: int = 4
    minibatches: int = 1
    microbatches: int = 1
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1.5e-5, schedule="linear")
    )
    kl_coef: float = 0.05
    kl_controller: str = "fixed"  # fixed | adaptive
    kl_target: float = 6.0  # nats, adaptive only
    kl_horizon: int = 10_000  # episodes, adaptive only
    gamma: float = 1.0
    lam: float = 0.95
    clip_policy: float = 0.2
    clip_value: float = 0.2
    value_coef: float = 0.1
    temperature: float = 0.7
    score_at: str = "eos"  # eos | after_eos
    no_eos: str = "replace"  # replace | subtract | none: what happens to the score without EOS
    no_eos_score: float = -1.0
    whiten_rewards: bool = False
    save_every: int = 100
    best: str = ""  # the same, e.g. objective/score


@dataclass
class EvalConfig:
    posts: int = 500  # test posts summarized by every policy
    best_of: int = 16
    temperature: float = 0.7  # of best-of-N; the policies are greedy
    shots: int = 2  # examples in the base model's prompt


@dataclass
class RoundsConfig:
    """Stage round: as many rounds as there are numbers in `pairs`."""

    pairs: tuple[int, ...] = (1_500, 1_500, 3_000)  # of summaries that people compare in each round


@dataclass
class HealthConfig:
    """Updates whose loss or gradient is not finite are always skipped."""

    spike_sigma: float = 0.0  # skip those of either this many σ above the last 128, 6 is usual; 0: do not
    patience: int = 10  # steps in a row without an update, after which the run ends


@dataclass
class Config:
    seed: int = 0
    keep_checkpoints: int = 2  # newest ones of every training that stay, beside the best
    mesh: MeshConfig = field(default_factory=MeshConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    ppo: PpoConfig = field(default_factory=PpoConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    profile: bool = False  # two steps of each training, into the work folder


# Where a run is computed and kept, not what: the numbers differ by rounding. sft.microbatches is not
# among them, for the rows of a packed batch depend on it.
PLACEMENT = {
    "profile",
    "keep_checkpoints",
    "mesh.replica",
    "mesh.fsdp",
    "mesh.tensor",
    "model.layer_loop",
    "model.attention",
    "model.rematerialize",
    "model.gather_to_sample",
    "reward.microbatches",
    "ppo.microbatches",
    "health.patience",  # ends a run and changes none of its numbers
}


def fields_of(config, prefix: str = ""):
    """Yields (dotted name, declared type, value) of every leaf field; ConfigError where a section is none."""
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(hints[f.name]):
            if type(value) is not hints[f.name]:
                raise ConfigError(f"{prefix}{f.name}: {value!r} should be a {hints[f.name].__name__}")
            yield from fields_of(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", hints[f.name], value


def differences(ours: Config, theirs: dict) -> list[str]:
    """Lines 'field: there → here' for every leaf in which a stored configuration differs.

    Those of PLACEMENT may: a run resumes on another mesh. A field that an older version did not have counts
    as its default.
    """
    stored = flatten(to_dict(Config())) | flatten(upgraded(theirs))
    current = {name: _plain(value) for name, _, value in fields_of(ours)}
    return [
        f"{name}: {stored.get(name, 'absent')} → {current.get(name, 'absent')}"
        for name in sorted((stored.keys() | current.keys()) - PLACEMENT)
        if stored.get(name, "absent") != current.get(name, "absent")
    ]


def to_dict(config) -> dict:
    """Nested plain values, as JSON holds them."""
    return {
        f.name: to_dict(v) if dataclasses.is_dataclass(v := getattr(config, f.name)) else _plain(v)
        for f in dataclasses.fields(config)
    }


def from_dict(tree: dict, cls: type = Config, prefix: str = ""):
    """The configuration that `to_dict` gave. Raises `ConfigError` for a field that does not exist."""
    hints = typing.get_type_hints(cls)
    for name in sorted(tree.keys() - hints.keys()):
        raise ConfigError(f"{prefix}{name}: no such field")
    values = {}
    for name, value in tree.items():
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise ConfigError(f"{prefix}{name}: {value!r} should be an object")
            value = from_dict(value, hints[name], f"{prefix}{name}.")
        values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def upgraded(tree: dict) -> dict:
    """A stored configuration in the fields of today: a gated MLP was once an activation of its own."""
    model = tree.get("model")
    if not isinstance(model, dict) or model.get("activation") != "silu_gated":
        return tree
    return tree | {"model": model | {"activation": "silu", "gated": True}}


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves
