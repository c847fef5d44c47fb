"""What a run is: one typed dataclass a stage; validation.py says which values can run.

`configs/x.py` has a `get_config()` that returns a `Config`; every field can be
overridden on the command line (`--config.ppo.kl_coef=0.1`). Nothing outside these
fields changes the numbers of a run.
"""

import copy
import dataclasses
import functools
import typing
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Settings = dict[str, Any]  # values of fields by their dotted names
MODEL = "model"  # of ppo.reward: the model of stage reward
FEW_SHOT_FRAME = 8  # tokens of a few-shot prompt around each post and its summary


def setting(default: Any, **facts: Any) -> Any:
    """A field with what there is to know of it besides its type; rlhf_jax/validation.py reads the facts.

    choices=("a", "b"): it is one of these, or a tuple of them. zero=True: it may be 0; other numbers are
    positive. sign=True: it may be any number. at_most=1, below=1: its limits. algorithm="ppo": with another
    `algorithm` of its section nothing reads it. optimizers=("adamw",): nor with another optimizer.name.
    placement=True: it says where and how a run is computed and kept, not what, so that a run resumes with
    another value: the numbers differ by rounding.
    """
    return field(default=default, metadata=facts)


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the field and what it may be."""


@dataclass
class MeshConfig:
    """Devices along each axis; their product is the number of devices used.

    `fsdp=-1` takes all devices that the other two axes leave.
    """

    replica: int = setting(1, placement=True)
    fsdp: int = setting(-1, sign=True, placement=True)
    tensor: int = setting(1, placement=True)


@dataclass(unsafe_hash=True)  # hashable: part of a static argument of compiled functions
class RotaryConfig:
    """Rotary positions and the ways of stretching them to longer contexts."""

    fraction: float = setting(1.0, zero=True, at_most=1)  # share of a head's dimensions that rotate
    base: float = 10_000.0
    scaling: str = setting("plain", choices=("plain", "linear", "llama3", "yarn", "longrope"))
    factor: float = 1.0  # how much longer the context became
    original_context: int = setting(0, zero=True)  # before it did; llama3, yarn and longrope
    low_frequency: float = 1.0  # llama3: turns in the original context, below which a dimension is stretched
    high_frequency: float = 4.0  # llama3: and above which it stays
    beta_fast: float = 32.0  # yarn: turns in the original context, above which a dimension stays
    beta_slow: float = 1.0  # yarn: and below which it is stretched
    # yarn and longrope: on cosine and sine; 0: 1 + ln(factor) / 10, √(1 + ln(factor) / ln(original_context))
    attention_factor: float = setting(0.0, zero=True)
    # longrope: what divides the frequency of each pair of dimensions within the original context, and in
    # longer ones, which are not computed: those stay for whoever the model is exported to.
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    local_base: float = setting(0.0, zero=True)  # base of local layers, never stretched; 0: as the others


class LayerKind(NamedTuple):
    """In what the attention of one layer may differ from another's; their weights are of the same shapes."""

    rotary: RotaryConfig | None = None  # None: queries and keys do not say where they stand
    window: int = 0  # keys that a query sees, its own one included; 0: all before it
    scale: float = 0.0  # of scores; 0: 1 / √(dimensions of a head)
    cap: float = 0.0  # c: scores become c · tanh(score / c); 0: they stay as they are


PLAIN = LayerKind()  # of queries and keys that are ready: each sees all before it


ATTENTION_MATRICES = ("query", "key", "value", "out")
MLP_MATRICES = ("up", "gate", "down")


@dataclass(unsafe_hash=True)  # hashable: part of a static argument of compiled functions
class LoraConfig:
    """Low-rank adapters (Hu et al., 2021): what is trained stands beside `model.pretrained`, which stays."""

    rank: int = setting(0, zero=True)  # of the change of a matrix; 0: the whole model is trained
    alpha: float = 16.0  # the change is multiplied by alpha / rank
    rank_stabilized: bool = False  # by alpha / √rank instead (Kalajdzievski, 2023)
    # Matrices that change: all of attention, all of the MLP, or single ones of them.
    targets: tuple[str, ...] = setting(
        ("attention", "mlp"), choices=("attention", "mlp", *ATTENTION_MATRICES, *MLP_MATRICES)
    )
    start: str = ""  # folder or hub name of an adapter of PEFT to start from; empty: no change of the model
    # How matrices that stay are held: in the type of the computation, in a byte a weight, or in half of one.
    base: str = setting("whole", choices=("whole", "int8", "nf4"))

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)

    @property
    def matrices(self) -> set[str]:
        """The names of the matrices that change."""
        groups = {"attention": ATTENTION_MATRICES, "mlp": MLP_MATRICES}
        return {name for target in self.targets for name in groups.get(target, (target,))}


@dataclass(unsafe_hash=True)  # hashable: a static argument of compiled functions
class ModelConfig:
    """The decoder-only transformer. The families of docs/pretrained.md are settings of these fields."""

    pretrained: str = ""  # a Hugging Face folder or hub name, or mini/<name>; sets all up to `tied_head`
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = setting(0, zero=True)  # 0: one key-value head a query head
    head_size: int = setting(0, zero=True)  # dimensions of a head; 0: width / heads
    ff: int = setting(0, zero=True)  # hidden units of the MLP; 0: 4 × width
    context: int = 1024  # positions a learned table holds
    norm: str = setting("layer", choices=("layer", "rms"))
    norm_epsilon: float = 1e-5
    norm_plus_one: bool = False  # norms multiply by 1 + w and not by w (Gemma)
    # What is normed: the input of attention and MLP, their output (OLMo 2) or both (Gemma 2 and 3).
    norm_place: str = setting("input", choices=("input", "output", "both"))
    # Queries and keys are normed, each head by itself (Qwen3, Gemma 3) or all heads as one (OLMo 2).
    qk_norm: str = setting("none", choices=("none", "head", "all_heads"))
    positions: str = setting("learned", choices=("learned", "rotary"))
    rotary: RotaryConfig = field(default_factory=RotaryConfig)
    # Kinds of the layers, from the first on and again: global, local within `window`, or global without
    # positions (nope). Gemma 2 is ("local", "global").
    layer_pattern: tuple[str, ...] = setting(("global",), choices=("global", "local", "nope"))
    window: int = setting(0, zero=True)  # tokens that a token of a local layer sees, itself included
    attention_scale: float = setting(0.0, zero=True)  # of scores; 0: 1 / √(dimensions of a head)
    attention_cap: float = setting(0.0, zero=True)  # c: scores become c · tanh(score / c); 0: no cap
    activation: str = setting("gelu_tanh", choices=("gelu_tanh", "gelu", "silu"))
    gated: bool = False  # of the MLP: the activation is of a second product, and multiplies the first
    parallel_residual: bool = False  # attention and MLP read the same input (GPT-NeoX)
    attention_bias: bool = True
    attention_out_bias: bool = True  # the output projection has a bias where the others do (Qwen2: none)
    mlp_bias: bool = True
    embedding_scale: float = 1.0  # embeddings are multiplied by it (Gemma: √width)
    logit_cap: float = setting(0.0, zero=True)  # c: logits become c · tanh(logit / c); 0: no cap
    tied_head: bool = True  # the token embedding is also the output matrix
    # Of the matrices before training: GPT-2's, right for a thousand dimensions; narrow ones want width^-½.
    init_std: float = 0.02
    dtype: str = setting("float32", choices=("float32", "bfloat16"))  # of the computation
    # Of trained weights between updates; an update of bfloat16 is rounded at random, or most would be lost.
    weights: str = setting("float32", choices=("float32", "bfloat16"))
    lora: LoraConfig = field(default_factory=LoraConfig)
    # Unrolled on a CPU and scanned elsewhere, unless it is said.
    layer_loop: str = setting("auto", choices=("auto", "scan", "unroll"), placement=True)
    # splash is for TPUs, cudnn for GPUs; auto takes what the platform has.
    attention: str = setting("auto", choices=("auto", "blocked", "splash", "cudnn"), placement=True)
    # Recompute a layer's activations in the backward pass, all of them or all but products with its weights.
    rematerialize: bool = setting(False, placement=True)
    rematerialize_but: str = setting("nothing", choices=("nothing", "products"), placement=True)
    # Gather weights over fsdp once a batch of samples, not once a token.
    gather_to_sample: bool = setting(True, placement=True)

    @property
    def key_value_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_dimension(self) -> int:
        return self.head_size or self.width // self.heads

    @property
    def hidden_units(self) -> int:
        return self.ff or 4 * self.width

    @property
    def layer_kinds(self) -> list[str]:
        """The kind of every layer, by its name in `layer_pattern`."""
        return [self.layer_pattern[i % len(self.layer_pattern)] for i in range(self.layers)]

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """What the layers of one period of `layer_pattern` are."""
        rotary = self.rotary if self.positions == "rotary" else None
        own = rotary and rotary.local_base
        local = RotaryConfig(self.rotary.fraction, self.rotary.local_base) if own else rotary
        scores = self.attention_scale, self.attention_cap
        kinds = {
            "global": LayerKind(rotary, 0, *scores),
            "local": LayerKind(local, self.window, *scores),
            "nope": LayerKind(None, 0, *scores),
        }
        return tuple(kinds[name] for name in self.layer_pattern)


@dataclass
class OptimizerConfig:
    """The schedule runs from `learning_rate` to 0 over the stage's updates, unless it is constant."""

    learning_rate: float = setting(1e-4, zero=True)
    schedule: str = setting("cosine", choices=("cosine", "linear", "constant"))
    warmup: int = setting(0, zero=True)  # updates of linear warm-up
    beta1: float = setting(0.9, zero=True, below=1, optimizers=("adamw", "adamw_8bit", "muon"))
    beta2: float = setting(0.999, zero=True, below=1, optimizers=("adamw", "adamw_8bit", "muon"))
    epsilon: float = setting(1e-5, optimizers=("adamw", "adamw_8bit", "muon"))
    weight_decay: float = setting(0.0, zero=True)  # beside the gradient, times the learning rate
    clip_norm: float = setting(0.0, zero=True)  # clip the global gradient norm to this; 0: no clipping
    # It keeps 8 bytes a weight, 2, next to none, or 4.
    name: str = setting("adamw", choices=("adamw", "adamw_8bit", "adafactor", "muon"))
    on_host: bool = setting(False, placement=True)  # what it keeps lies in the host's memory between updates


@dataclass
class DataConfig:
    source: str = "tldr"  # the task: a file of data/tasks/, such as tldr, plain or chat, or my_task.py
    # Tables of plain and chat, with commas: files, folders, patterns or hub names, each behind its split and
    # a colon where its own name does not tell it, such as train:pairs.parquet,test:held_out.jsonl.
    files: str = ""
    columns: str = ""  # other names in `files`, joined where they are one: title:prompt,text:prompt
    template_variables: str = ""  # that a chat template reads, such as enable_thinking=false
    posts: str = ""  # folder with {train,valid,test}.jsonl; empty: OpenAI's set, downloaded to `cache`
    queries: str = ""  # posts for PPO: a folder, or published: OpenAI's larger set; empty: the same posts
    comparisons: str = ""  # folder or glob of comparison records; empty: OpenAI's, downloaded
    url: str = setting("https://openaipublic.blob.core.windows.net/summarize-from-feedback", placement=True)
    cache: str = setting("~/.cache/rlhf_jax", placement=True)
    filters: bool = False  # apply the paper's filters (OpenAI's files already passed them)
    tokenizer: str = ""  # a model file or tokenizer.json; empty: the pretrained model's, or trained
    vocabulary: int = 8192  # pieces of a tokenizer trained here
    query_tokens: int = 512
    response_tokens: int = 53  # of a generated summary, EOS included
    reward_response_tokens: int = 128  # of a summary that the reward model reads
    query_buckets: tuple[int, ...] = ()  # padded query lengths; empty: up to 4 that fit the data
    padding: str = setting("masked", choices=("masked", "space"))  # what fills a query's left
    mini_posts: int = 12_000  # the miniature: posts in train
    mini_pairs: int = 24_000  # the miniature: labelled comparisons in train
    # The miniature: whose summaries are compared, as `rlhf-jax ask --policies` names them.
    mini_policies: tuple[str, ...] = ("base", "sft", "sft", "reference", "editor")
    mini_test: int = 1_000  # the miniature: posts in valid and in test


@dataclass
class ImitationConfig:
    """Fine-tuning on responses."""

    batch_size: int = 128  # posts a step
    epochs: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=6.35e-5))
    query_loss: bool = False  # also learn the query's tokens (N+)
    pack: bool = True  # several posts a row
    microbatches: int = 1  # gradient accumulation: parts a batch is computed in
    save_every: int = 500
    best: str = ""  # metric whose best checkpoint later stages read, e.g. -loss; empty: the newest one


@dataclass
class SftConfig(ImitationConfig):
    """On people's responses."""

    bigger_pretrained: str = ""  # also fine-tuned, as `sft_10x`, for comparison; empty: none


@dataclass
class RewardConfig:
    batch_size: int = 64  # pairs a step
    epochs: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1.5e-5))
    # What is learned of a comparison: who was preferred; also how surely, by extra.confidence (1 to 9); or
    # each response's rating, by extra.ratings.
    loss: str = setting("choice", choices=("choice", "confidence", "ratings"))
    seeds: int = 1  # models trained; the best on validation is `reward`, and ppo.ensemble may use all
    # All of them begin with one head, and the mean of their weights is a model, too (WARM).
    shared_head: bool = False
    batches: tuple[str, ...] = ()  # labelling batches to train on, e.g. batch3; empty: all
    microbatches: int = setting(1, placement=True)
    save_every: int = 500
    best: str = ""  # metric whose best checkpoint later stages read, e.g. accuracy


@dataclass
class DpoConfig:
    """Direct preference optimization, on the pairs of the reward model."""

    # dpo measures both responses of a pair against the SFT policy; ipo too, by the token and up to a margin;
    # simpo compares the mean log-probabilities of their tokens, without a reference.
    algorithm: str = setting("dpo", choices=("dpo", "ipo", "simpo"))
    beta: float = 0.1  # β: the weight of the KL penalty that the loss stands for; of simpo, about 2, a scale
    # Share of choices that are taken to be wrong.
    label_smoothing: float = setting(0.0, zero=True, below=0.5, algorithm="dpo")
    margin: float = setting(1.0, zero=True, algorithm="simpo")  # γ, by which the preferred one is to be ahead
    batch_size: int = 64  # pairs a step
    epochs: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1e-6))
    microbatches: int = setting(1, placement=True)
    save_every: int = 500
    best: str = ""  # metric whose best checkpoint later stages read, e.g. accuracy


@dataclass
class DistillConfig(ImitationConfig):
    """On the best of several responses of the policy's own, by the rewards of `ppo.reward`."""

    best_of: int = 16  # responses to a prompt, of which one is learned
    temperature: float = 0.7  # at which they are drawn
    prompts: int = 4096  # of a round, drawn anew for each; where there are fewer, all
    rounds: int = 1  # from the second on, the policy of the round before writes


@dataclass
class PpoConfig:
    # What tells good responses from bad: ppo a value network, token by token; the others compare whole
    # responses, rloo and grpo those to the same prompt, reinforce all of the batch; online_dpo makes the best
    # and the worst to a prompt a pair of DPO's.
    algorithm: str = setting("ppo", choices=("ppo", "rloo", "grpo", "reinforce", "online_dpo"))
    episodes: int = 1_000_000
    batch_size: int = 512  # episodes an iteration
    samples: int = 1  # responses to a prompt, each an episode
    epochs: int = 4
    minibatches: int = 1
    microbatches: int = setting(1, placement=True)
    rollout_rows: int = setting(0, zero=True, placement=True)  # sampled at once; 0: up to 64 a device
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1.5e-5, schedule="linear")
    )
    frozen_on_host: bool = setting(False, placement=True)  # reference and reward model, but while they score
    # What a response scores: "model", that of stage reward; FILE.py:function or package.module:function; the
    # http address of a server; or several of them, with commas, which add up.
    reward: str = MODEL
    # Where there are several reward models: the best one, the mean or the least of their scores, or the model
    # whose weights are the mean of theirs.
    ensemble: str = setting("best", choices=("best", "mean", "worst", "averaged"))
    reward_weights: tuple[float, ...] = setting((), sign=True)  # of each; empty: 1; 0 only logs it
    # Seconds that a function may take for a batch, or a server for an attempt.
    reward_timeout: float = setting(60.0, placement=True)
    kl_coef: float = setting(0.05, zero=True)  # β, the weight of the KL penalty
    kl_controller: str = setting("fixed", choices=("fixed", "adaptive"))
    kl_target: float = 6.0  # nats, adaptive only
    kl_horizon: int = 10_000  # episodes, adaptive only
    kl_in: str = setting("reward", choices=("reward", "loss"))  # where the KL penalty enters
    kl_estimator: str = setting("k1", choices=("k1", "k2", "k3"))
    gamma: float = setting(1.0, zero=True, at_most=1, algorithm="ppo")
    lam: float = setting(0.95, zero=True, at_most=1, algorithm="ppo")
    divide_by_std: bool = setting(True, algorithm="grpo")  # of a prompt's rewards; False: Dr. GRPO
    # Of new to old probability: one a token, or one a response, as their product or, with gspo, its root.
    ratio: str = setting("token", choices=("token", "sequence", "gspo"))
    clip_policy: float = 0.2
    clip_value: float = setting(0.2, algorithm="ppo")
    value_coef: float = setting(0.1, zero=True, algorithm="ppo")
    # What losses are means over: a minibatch's tokens; its rows, each the mean of its tokens (N+, GRPO); or
    # all slots, with a token or without, so that sums are divided by a constant (Dr. GRPO).
    loss_mean: str = setting("tokens", choices=("tokens", "rows", "constant"))
    temperature: float = 0.7
    score_at: str = setting("eos", choices=("eos", "after_eos"))
    # What no_eos_score does to the score of a response without EOS.
    no_eos: str = setting("replace", choices=("replace", "subtract", "none"))
    no_eos_score: float = setting(-1.0, sign=True)
    whiten_rewards: bool = setting(False, algorithm="ppo")
    save_every: int = 100
    best: str = ""  # metric whose best checkpoint is kept, e.g. objective/score

    @property
    def rewards(self) -> dict[str, tuple[str, float]]:
        """Place and weight of what adds up to a score, by the names under which each is logged."""
        places = self.reward.split(",")
        weights = self.reward_weights or (1.0,) * len(places)
        return {reward_name(place): (place, weight) for place, weight in zip(places, weights, strict=True)}

    @property
    def prompts(self) -> int:
        """Of a batch."""
        return self.batch_size // self.samples

    @property
    def has_value_network(self) -> bool:
        return self.algorithm == "ppo"

    @property
    def is_by_model_alone(self) -> bool:
        """Whether a score is the reward model's: then an iteration is one compiled program."""
        return list(self.rewards.values()) == [(MODEL, 1.0)]


def reward_name(place: str) -> str:
    """f of FILE.py:f; of an address, the last word of its path or, without a path, its host."""
    if "://" in place:
        address = urllib.parse.urlsplit(place)
        return address.path.rstrip("/").rpartition("/")[2] or address.netloc.rpartition("@")[2]
    return place.rpartition(":")[2]


@dataclass
class EvalConfig:
    posts: int = 500  # test posts summarized by every policy
    best_of: int = 16
    temperature: float = 0.7  # of best-of-N; the policies are greedy
    shots: int = setting(2, zero=True)  # examples in the base model's prompt


@dataclass
class RoundsConfig:
    """Stage round: as many rounds as there are numbers in `pairs`."""

    pairs: tuple[int, ...] = (1_500, 1_500, 3_000)  # of summaries that people compare in each round


@dataclass
class HealthConfig:
    """Updates whose loss or gradient is not finite are always skipped."""

    # Skip updates of which either lies this many σ above the last 128; 6 is usual, 0 skips none.
    spike_sigma: float = setting(0.0, zero=True)
    patience: int = setting(10, placement=True)  # steps in a row without an update, after which the run ends


@dataclass
class Config:
    seed: int = setting(0, zero=True)
    # Stages that train a policy by people's preferences, each a policy of its own; evaluation compares them.
    policies: tuple[str, ...] = setting(("ppo",), choices=("dpo", "distill", "ppo"))
    keep_checkpoints: int = setting(2, placement=True)  # newest of a training that stay, beside the best
    mesh: MeshConfig = field(default_factory=MeshConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    ppo: PpoConfig = field(default_factory=PpoConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    # A service that is sent every step, the configuration and samples; empty: none.
    track: str = setting("", choices=("", "wandb", "trackio", "mlflow"), placement=True)
    profile: bool = setting(False, placement=True)  # two steps of each training, into the work folder


def fields_of(config, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """(dotted name, field, value) of every leaf; ConfigError where a section is none."""
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        name, value = f"{prefix}{f.name}", getattr(config, f.name)
        if not dataclasses.is_dataclass(hints[f.name]):
            yield name, f, value
        elif type(value) is hints[f.name]:
            yield from fields_of(value, f"{name}.")
        else:
            raise ConfigError(f"{name}: {value!r} should be a {hints[f.name].__name__}")


def changed(config: Config, settings: Settings) -> Config:
    """A copy of `config` with other values for these fields."""
    config = copy.deepcopy(config)
    for name, value in settings.items():
        *path, leaf = name.split(".")
        setattr(functools.reduce(getattr, path, config), leaf, value)
    return config


PLACEMENT = {name for name, f, _ in fields_of(Config()) if f.metadata.get("placement")}
