"""Which values of a configuration can run: types, ranges, choices, and what must fit together."""

import dataclasses
import difflib
import math
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from rlhf_jax.config import (
    FEW_SHOT_FRAME,
    MODEL,
    Config,
    ConfigError,
    DpoConfig,
    ModelConfig,
    OptimizerConfig,
    PpoConfig,
    RotaryConfig,
    fields_of,
    reward_name,
)

# FILE.py:function, package.module:function or the address of a server, which holds no comma.
REWARD = r"(?!https?:)[^:]+:[^\W\d]\w*|https?://[^\s/]+(/\S*)?"


def validate(config: Config) -> Config:
    """Returns `config` unchanged, or raises `ConfigError` naming the first wrong field."""
    leaves = list(fields_of(config))
    for name in _names_set(config) - {name for name, _, _ in leaves}:
        check_name(name)
    for name, field, value in leaves:
        _check_type(name, field.type, value)
        _check_range(name, value, field.metadata)
        choices = field.metadata.get("choices")
        for choice in value if isinstance(value, tuple) else (value,):
            if choices and choice not in choices:
                named = ", ".join(known or "empty" for known in choices)
                several = tuple(choice.split(",")) if "," in choice and value == (choice,) else ()
                hint = f"""; several are --config.{name}="{several}\"""" if several else ""
                raise ConfigError(f"{name}: {choice!r} is not one of {named}{hint}")
    _check_together(config)
    return config


def check_context(config: Config, model: ModelConfig) -> None:
    """Raises `ConfigError` where the texts go beyond the positions that `model`, known in full, has.

    These end where they are learned, and where longrope takes other frequencies for longer texts. Other
    rotary positions go on beyond those that a pretrained model was trained at, which is told.
    """
    data, shots = config.data, config.eval.shots
    longest = data.query_tokens + max(data.response_tokens, data.reward_response_tokens)
    if model.positions != "learned" and model.rotary.scaling != "longrope":
        if config.model.pretrained and longest > model.context:
            print(
                f"model.context: query and response, {longest} tokens, go beyond the {model.context} that "
                "this model was trained at",
                file=sys.stderr,
            )
        return
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
    if rotary.scaling in ("llama3", "yarn", "longrope") and not rotary.original_context:
        raise ConfigError(f"{place}: {rotary.scaling} needs the original context, which is 0")
    if rotary.scaling == "longrope" and not (rotary.original_context > 1 or rotary.attention_factor):
        raise ConfigError(f"{place}: longrope needs an original context above 1, or an attention factor")
    if rotary.scaling == "yarn" and not rotary.base > 1:
        raise ConfigError(f"{place}: yarn needs a base above 1, not {rotary.base}")


def check_factors(model: ModelConfig, place: object) -> None:
    """Raises `ConfigError` where longrope has not one factor for each pair of dimensions that rotates."""
    rotary, pairs = model.rotary, int(model.head_dimension * model.rotary.fraction) // 2
    for name in ("short_factors", "long_factors"):
        count = len(getattr(rotary, name))
        if rotary.scaling == "longrope" and count != pairs:
            raise ConfigError(f"{place}: longrope has {count} {name} for the {pairs} pairs that rotate")


def check_name(name: str) -> None:
    """Raises `ConfigError` with the nearest names if no leaf field has the dotted name `name`."""
    names = [known for known, _, _ in fields_of(Config())]
    if name in names:
        return
    inside = [known for known in names if known.startswith(f"{name}.")]
    near = inside[:3] or difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "rlhf_jax/config.py lists them"
    raise ConfigError(f"{name}: no such field; {hint}")


def _names_set(config, prefix: str = "") -> set[str]:
    """Dotted names of all attributes: a dataclass takes a misspelt one without a word."""
    names: set[str] = set()
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            names |= _names_set(value, f"{prefix}{name}.")
        else:
            names.add(f"{prefix}{name}")
    return names


def _check_type(name: str, kind, value) -> None:
    if isinstance(kind, types.GenericAlias):
        item = typing.get_args(kind)[0]
        good = isinstance(value, tuple) and all(_is_of(item, v) for v in value)
        wanted = f"a tuple of {item.__name__}"
    else:
        good = _is_of(kind, value)
        wanted = kind.__name__
    if not good:
        raise ConfigError(f"{name}: {value!r} should be {wanted}")


def _is_of(kind, value) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


def _check_range(name: str, value, facts: Mapping[str, Any]) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not abs(number) <= sys.float_info.max:
            raise ConfigError(f"{name}: {number} is not a finite number")
        if not facts.get("sign") and (number < 0 or (number == 0 and not facts.get("zero"))):
            raise ConfigError(
                f"{name}: {number} should be {'0 or more' if facts.get('zero') else 'positive'}"
            )
        if name == "seed" and number >= 2**32:  # of which JAX would take the lower bits alone
            raise ConfigError(f"{name}: {number} should be below {2**32}")
        if number > facts.get("at_most", math.inf):
            raise ConfigError(f"{name}: {number} should be at most {facts['at_most']}")
        if number >= facts.get("below", math.inf):
            raise ConfigError(f"{name}: {number} should be below {facts['below']}")


def _check_rewards(options: PpoConfig) -> None:
    places = options.reward.split(",")
    for place in places:
        if place != MODEL and not re.fullmatch(REWARD, place):
            raise ConfigError(
                f"ppo.reward: {place!r} is neither {MODEL} nor FILE.py:function, package.module:function or "
                "http://HOST/PATH"
            )
    names = list(map(reward_name, places))
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"ppo.reward: {name} stands there twice, and each is logged by its name")
    if options.reward_weights and len(options.reward_weights) != len(places):
        given = len(options.reward_weights)
        raise ConfigError(f"ppo.reward_weights: {given} weights for the {len(places)} of ppo.reward")


def _check_read(section: str, options: DpoConfig | PpoConfig) -> None:
    name = options.algorithm
    for known in dataclasses.fields(options):
        reader, value = known.metadata.get("algorithm", name), getattr(options, known.name)
        if reader != name and value != known.default:
            raise ConfigError(
                f"{section}.{known.name}: {value!r} is read by {section}.algorithm={reader} and not by "
                f"{name}: leave it at {known.default!r}"
            )


def _check_algorithm(options: PpoConfig) -> None:
    name, samples = options.algorithm, options.samples
    if options.rollout_rows % samples:
        raise ConfigError(
            f"ppo.rollout_rows: {options.rollout_rows} is no multiple of the {samples} of ppo.samples, which "
            "stay together"
        )
    if name in ("rloo", "grpo", "online_dpo") and samples < 2:
        raise ConfigError(f"ppo.samples: {name} compares responses to one prompt: 2 or more, not {samples}")
    if name == "online_dpo":
        default = PpoConfig()
        for field in ("kl_in", "kl_estimator", "kl_controller", "ratio", "clip_policy", "loss_mean"):
            if getattr(options, field) != getattr(default, field):
                raise ConfigError(
                    f"ppo.{field}: the loss of online_dpo, of pairs and with its own KL penalty, does not "
                    f"read it: leave it at {getattr(default, field)!r}"
                )
        if not options.kl_coef:
            raise ConfigError("ppo.kl_coef: with 0 the loss of online_dpo is constant: take more")
    if name == "reinforce" and options.batch_size < 2:
        raise ConfigError("ppo.batch_size: reinforce compares the responses of a batch: 2 or more, not 1")
    if options.ratio != "token" and name == "ppo":
        raise ConfigError(
            f"ppo.ratio: {options.ratio} needs one advantage a response, and ppo has one a token: "
            "take ppo.algorithm=rloo, grpo or reinforce"
        )
    if options.ratio != "token" and options.loss_mean != "rows":
        raise ConfigError(
            f"ppo.ratio: with {options.ratio} every response weighs the same, whatever its length: "
            "set ppo.loss_mean=rows"
        )
    if options.loss_mean == "constant" and name == "ppo":
        raise ConfigError("ppo.loss_mean: constant is not for ppo, which has a value loss: tokens or rows")
    if options.kl_in == "loss" and options.kl_estimator == "k1":
        raise ConfigError(
            "ppo.kl_estimator: in the loss the gradient of k1 is 0 on average and penalizes nothing: "
            "take k2 or k3, or ppo.kl_in=reward"
        )
    if options.kl_in == "loss" and options.kl_controller == "adaptive":
        raise ConfigError(
            "ppo.kl_controller: adaptive changes the weight of the penalty in the reward: take fixed, or "
            "ppo.kl_in=reward"
        )


def _check_ensemble(config: Config) -> None:
    reward, how = config.reward, config.ppo.ensemble
    if how != "best" and (reward.seeds < 2 or MODEL not in config.ppo.rewards):
        raise ConfigError(
            f"ppo.ensemble: {how} is of several reward models: set reward.seeds to 2 or more, and put "
            f"{MODEL} into ppo.reward"
        )
    if how == "averaged" and not reward.shared_head:
        raise ConfigError(
            "ppo.ensemble: weights of models that began with different heads have no mean that scores: set "
            "reward.shared_head=True"
        )
    if reward.shared_head and reward.seeds < 2:
        raise ConfigError("reward.shared_head: there is one model, so set reward.seeds to 2 or more")
    if reward.shared_head and config.model.lora.rank:
        raise ConfigError(
            "reward.shared_head: the mean of adapters is not that of the models which they change: leave it "
            "out, and take mean or worst in ppo.ensemble"
        )


def _check_optimizer(place: str, options: OptimizerConfig) -> None:
    for known in dataclasses.fields(options):
        readers, value = known.metadata.get("optimizers", (options.name,)), getattr(options, known.name)
        if options.name not in readers and value != known.default:
            raise ConfigError(
                f"{place}.{known.name}: {value!r} is read by {' and '.join(readers)} and not by "
                f"{options.name}: leave it at {known.default!r}"
            )


def _check_lora(config: Config) -> None:
    lora = config.model.lora
    if lora.start and not lora.rank:
        raise ConfigError("model.lora.start: an adapter to start from needs model.lora.rank, which is 0")
    if lora.start and config.sft.bigger_pretrained:
        raise ConfigError("model.lora.start: an adapter fits one model; leave sft.bigger_pretrained empty")
    if lora.rank and not config.model.pretrained:
        raise ConfigError(
            "model.lora.rank: adapters change a pretrained model: name it in model.pretrained, or leave 0"
        )
    if lora.base != "whole" and not lora.rank:
        raise ConfigError(
            f"model.lora.base: {lora.base} is for a model that stays, which it does with "
            "model.lora.rank: set that, or leave whole"
        )
    if not lora.targets:
        raise ConfigError("model.lora.targets: () should name a matrix that changes")


def _check_together(config: Config) -> None:
    model, data, ppo = config.model, config.data, config.ppo
    if not model.head_size and model.width % model.heads:
        raise ConfigError(f"model.heads: {model.heads} heads do not divide model.width {model.width}")
    if model.kv_heads and model.heads % model.kv_heads:
        raise ConfigError(f"model.kv_heads: {model.kv_heads} do not divide model.heads {model.heads}")
    check_rotary(model.rotary, "model.rotary")
    check_factors(model, "model.rotary")
    if not model.layer_pattern:
        raise ConfigError("model.layer_pattern: () should name the kind of one layer at least")
    if ("local" in model.layer_pattern) != bool(model.window):
        raise ConfigError(
            f"model.window: {model.window} does not fit model.layer_pattern {','.join(model.layer_pattern)}: "
            "local layers have a window, and only they"
        )
    if config.mesh.fsdp < 1 and config.mesh.fsdp != -1:
        raise ConfigError(f"mesh.fsdp: {config.mesh.fsdp} should be positive, or -1 for all devices")
    if tuple(sorted(set(data.query_buckets))) != data.query_buckets:
        raise ConfigError(f"data.query_buckets: {data.query_buckets} should be increasing lengths")
    if data.query_buckets and data.query_buckets[-1] != data.query_tokens:
        raise ConfigError(
            f"data.query_buckets: the last one, {data.query_buckets[-1]}, "
            f"should be data.query_tokens {data.query_tokens}"
        )
    if ppo.batch_size % ppo.samples:
        raise ConfigError(f"ppo.samples: {ppo.samples} do not divide ppo.batch_size {ppo.batch_size}")
    if ppo.prompts % (ppo.minibatches * ppo.microbatches):
        of_samples = f" / ppo.samples {ppo.samples} = {ppo.prompts}" if ppo.samples > 1 else ""
        raise ConfigError(
            f"ppo.batch_size: {ppo.batch_size}{of_samples} is not divisible by ppo.minibatches × "
            f"ppo.microbatches = {ppo.minibatches * ppo.microbatches}"
        )
    if ppo.rollout_rows and ppo.batch_size % ppo.rollout_rows:
        raise ConfigError(
            f"ppo.rollout_rows: ppo.batch_size {ppo.batch_size} is not divisible by {ppo.rollout_rows}"
        )
    _check_read("dpo", config.dpo)
    if config.distill.best_of < 2:
        raise ConfigError("distill.best_of: of one response none is chosen: set 2 or more")
    if config.distill.prompts < config.distill.batch_size:
        raise ConfigError(
            f"distill.prompts: {config.distill.prompts} fill no batch of distill.batch_size "
            f"{config.distill.batch_size}"
        )
    _check_read("ppo", ppo)
    _check_algorithm(ppo)
    _check_rewards(ppo)
    _check_ensemble(config)
    _check_lora(config)
    if ppo.frozen_on_host and model.lora.rank:
        raise ConfigError(
            "ppo.frozen_on_host: with model.lora.rank the frozen networks are adapters of the base that the "
            "policy needs, too, and take next to nothing: leave False"
        )
    for stage, options in vars(config).items():
        if hasattr(options, "optimizer"):
            _check_optimizer(f"{stage}.optimizer", options.optimizer)
            if options.optimizer.name == "muon" and model.lora.rank:
                raise ConfigError(
                    f"{stage}.optimizer.name: muon is of whole matrices, and with model.lora.rank none is "
                    "trained: take adamw"
                )
    if model.rematerialize_but != "nothing" and not model.rematerialize:
        raise ConfigError(
            f"model.rematerialize_but: without model.rematerialize {model.rematerialize_but} stay anyway: "
            "set that, too, or leave nothing"
        )
    if data.tokenizer and config.model.pretrained:
        raise ConfigError("data.tokenizer: model.pretrained knows the token ids of its own; leave this empty")
    if not config.policies:
        raise ConfigError("policies: () should name a stage that trains one by people's preferences")
    if not config.rounds.pairs:
        raise ConfigError("rounds.pairs: () should hold a number for each round")
    if ppo.episodes < ppo.batch_size:
        raise ConfigError(f"ppo.episodes: {ppo.episodes} do not fill one ppo.batch_size of {ppo.batch_size}")
    for stage in ("sft", "reward", "dpo", "distill"):
        options = getattr(config, stage)
        if options.batch_size % options.microbatches:
            raise ConfigError(
                f"{stage}.batch_size: {options.batch_size} is not divisible by "
                f"{stage}.microbatches = {options.microbatches}"
            )
