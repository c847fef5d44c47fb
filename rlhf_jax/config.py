"""What a run is: one typed dataclass a stage, validated once.

`configs/x.py` has a `get_config()` that returns a `Config`; every field can be
overridden on the command line (`--config.ppo.kl_coef=0.1`). Nothing outside these
fields changes the numbers of a run.
"""

import dataclasses
import difflib
import sys
import types
import typing
from dataclasses import dataclass, field

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
    activation: str = "gelu_tanh"  # gelu_tanh | gelu | silu_gated
    parallel_residual: bool = False  # attention and MLP read the same input (GPT-NeoX)
    attention_bias: bool = True
    mlp_bias: bool = True
    tied_head: bool = True  # the token embedding is also the output matrix
    dtype: str = "float32"  # of the computation; master weights are float32
    layer_loop: str = "auto"  # scan | unroll | auto: unrolled on CPU, scanned elsewhere
    attention: str = "auto"  # blocked | splash (TPU) | cudnn (GPU) | auto: what the platform has
    rematerialize: bool = False  # recompute a layer's activations in the backward pass
    gather_to_sample: bool = True  # gather weights over fsdp once a batch of samples, not once a token


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
    source: str = "tldr"  # mini: the embedded miniature | tldr: records in OpenAI's formats
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


CHOICES = {
    "model.norm": ("layer", "rms"),
    "model.positions": ("learned", "rotary"),
    "model.rotary.scaling": ("plain", "linear", "llama3", "yarn"),
    "model.activation": ("gelu_tanh", "gelu", "silu_gated"),
    "model.dtype": ("float32", "bfloat16"),
    "model.layer_loop": ("auto", "scan", "unroll"),
    "model.attention": ("auto", "blocked", "splash", "cudnn"),
    "data.source": ("mini", "tldr"),
    "data.padding": ("masked", "space"),
    "ppo.kl_controller": ("fixed", "adaptive"),
    "ppo.score_at": ("eos", "after_eos"),
    "ppo.no_eos": ("replace", "subtract", "none"),
    "*.optimizer.schedule": ("cosine", "linear", "constant"),
}
MAY_BE_ZERO = set(
    "seed kv_heads head_size original_context attention_factor ff warmup weight_decay clip_norm kl_coef "
    "shots beta1 beta2 fraction gamma lam value_coef learning_rate spike_sigma".split()
)
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
AT_MOST_ONE = {"fraction", "gamma", "lam"}
BELOW_ONE = {"beta1", "beta2"}
ANY_SIGN = {"fsdp", "no_eos_score"}


def validate(config: Config) -> Config:
    """Returns `config` unchanged, or raises `ConfigError` naming the first wrong field."""
    leaves = list(fields_of(config))
    for name in _names_set(config) - {name for name, _, _ in leaves}:
        check_name(name)
    for name, kind, value in leaves:
        _check_type(name, kind, value)
        _check_range(name, value)
        choices = CHOICES.get(name) or CHOICES.get("*." + ".".join(name.split(".")[-2:]))
        if choices and value not in choices:
            raise ConfigError(f"{name}: {value!r} is not one of {', '.join(choices)}")
    _check_together(config)
    return config


def check_context(config: Config, model: ModelConfig) -> None:
    """Raises `ConfigError` where `model`, known in full, has too few learned positions for the texts."""
    if model.positions != "learned":
        return
    data, shots = config.data, config.eval.shots
    longest = data.query_tokens + max(data.response_tokens, data.reward_response_tokens)
    if longest > model.context:
        raise ConfigError(
            f"model.context: {model.context} is shorter than query and response, {longest} tokens"
        )
    prompt = (shots + 1) * (data.query_tokens + data.response_tokens + FEW_SHOT_FRAME) + data.response_tokens
    if config.model.pretrained and prompt > model.context:
        raise ConfigError(
            f"eval.shots: a prompt with {shots} examples and its response, {prompt} tokens, "
            f"is longer than the model's context of {model.context}"
        )


def check_rotary(rotary: RotaryConfig, place: object) -> None:
    """Raises `ConfigError` where the frequencies of `rotary` are no numbers; `place` says whose it is."""
    if rotary.scaling == "llama3" and not rotary.low_frequency < rotary.high_frequency:
        raise ConfigError(
            f"{place}: llama3's low frequency {rotary.low_frequency} should be below its high one, "
            f"{rotary.high_frequency}"
        )
    if rotary.scaling in ("llama3", "yarn") and not rotary.original_context:
        raise ConfigError(f"{place}: {rotary.scaling} needs the original context, which is 0")
    if rotary.scaling == "yarn" and not rotary.base > 1:
        raise ConfigError(f"{place}: yarn needs a base above 1, not {rotary.base}")


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


def check_name(name: str) -> None:
    """Raises `ConfigError` with the nearest names if no leaf field has the dotted name `name`."""
    names = [known for known, _, _ in fields_of(Config())]
    if name in names:
        return
    inside = [known for known in names if known.startswith(f"{name}.")]
    near = inside[:3] or difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "rlhf_jax/config.py lists them"
    raise ConfigError(f"{name}: no such field; {hint}")


def differences(ours: Config, theirs: dict) -> list[str]:
    """Lines 'field: there → here' for every leaf in which a stored configuration differs.

    Those of PLACEMENT may: a run resumes on another mesh.
    """
    stored = dict(_flatten(theirs))
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


def _names_set(config, prefix: str = "") -> set[str]:
    """Dotted names of all attributes: a dataclass takes a misspelt one without a word."""
    names: set[str] = set()
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            names |= _names_set(value, f"{prefix}{name}.")
        else:
            names.add(f"{prefix}{name}")
    return names


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _flatten(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_type(name: str, kind, value) -> None:
    if isinstance(kind, types.GenericAlias):
        item = typing.get_args(kind)[0]
        good = isinstance(value, tuple) and all(type(v) is item for v in value)
        wanted = f"a tuple of {item.__name__}"
    else:
        good = type(value) is kind or (kind is float and type(value) is int)
        wanted = kind.__name__
    if not good:
        raise ConfigError(f"{name}: {value!r} should be {wanted}")


def _check_range(name: str, value) -> None:
    leaf = name.split(".")[-1]
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not abs(number) <= sys.float_info.max:
            raise ConfigError(f"{name}: {number} is not a finite number")
        if leaf not in ANY_SIGN and (number < 0 or (number == 0 and leaf not in MAY_BE_ZERO)):
            raise ConfigError(
                f"{name}: {number} should be {'0 or more' if leaf in MAY_BE_ZERO else 'positive'}"
            )
        if leaf == "seed" and number >= 2**32:  # of which JAX would take the lower bits alone
            raise ConfigError(f"{name}: {number} should be below {2**32}")
        if (leaf in AT_MOST_ONE and number > 1) or (leaf in BELOW_ONE and number >= 1):
            raise ConfigError(f"{name}: {number} should be {'at most' if leaf in AT_MOST_ONE else 'below'} 1")


def _check_together(config: Config) -> None:
    model, data, ppo = config.model, config.data, config.ppo
    if not model.head_size and model.width % model.heads:
        raise ConfigError(f"model.heads: {model.heads} heads do not divide model.width {model.width}")
    if model.kv_heads and model.heads % model.kv_heads:
        raise ConfigError(f"model.kv_heads: {model.kv_heads} do not divide model.heads {model.heads}")
    check_rotary(model.rotary, "model.rotary")
    if config.mesh.fsdp < 1 and config.mesh.fsdp != -1:
        raise ConfigError(f"mesh.fsdp: {config.mesh.fsdp} should be positive, or -1 for all devices")
    if not data.query_buckets or tuple(sorted(set(data.query_buckets))) != data.query_buckets:
        raise ConfigError(f"data.query_buckets: {data.query_buckets} should be increasing lengths")
    if data.query_buckets[-1] != data.query_tokens:
        raise ConfigError(
            f"data.query_buckets: the last one, {data.query_buckets[-1]}, "
            f"should be data.query_tokens {data.query_tokens}"
        )
    if ppo.batch_size % (ppo.minibatches * ppo.microbatches):
        raise ConfigError(
            f"ppo.batch_size: {ppo.batch_size} is not divisible by ppo.minibatches × ppo.microbatches = "
            f"{ppo.minibatches * ppo.microbatches}"
        )
    if not config.rounds.pairs:
        raise ConfigError("rounds.pairs: () should hold a number for each round")
    if ppo.episodes < ppo.batch_size:
        raise ConfigError(f"ppo.episodes: {ppo.episodes} do not fill one ppo.batch_size of {ppo.batch_size}")
    for stage in ("sft", "reward"):
        options = getattr(config, stage)
        if options.batch_size % options.microbatches:
            raise ConfigError(
                f"{stage}.batch_size: {options.batch_size} is not divisible by "
                f"{stage}.microbatches = {options.microbatches}"
            )
