"""What to turn on where a program does not fit, each tried by the compiler.

First what changes no number, in the order of what it costs in speed: a batch computed in more parts reads the
weights more often, frozen networks that wait on the host cross the bus once an iteration, recomputed
activations take a third more operations, and fewer rows sampled at once read all weights for one token of
these few. Then what changes the training: bfloat16, moments of 8 bits and adapters, which do not make it
slower, and smaller batches. Where networks and optimizer alone are too large, what makes them smaller comes
first.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rlhf_jax.config import Config, ConfigError, PpoConfig
from rlhf_jax.plan.compiled import Compiled, compile_program, needed
from rlhf_jax.plan.planned import architecture
from rlhf_jax.plan.topologies import Topology
from rlhf_jax.validation import validate

Settings = dict[str, Any]  # fields of a configuration by their dotted names
Remedy = Callable[[Config, Compiled, float], Iterator[Settings]]  # what to try, for so many bytes of a device
SAVES = 0.99  # a remedy that leaves more than this share of the memory is not worth its price
ROWS = (16, 4)  # of ppo.rollout_rows
RANK = 16


class Trial(NamedTuple):
    settings: Settings
    plan: Compiled

    @property
    def flags(self) -> str:
        return flags_of(self.settings)


def remedies(program: str, config: Config, topology: Topology, plan: Compiled) -> Iterator[Trial]:
    """Trials as they are compiled, after the `plan` of `config` did not fit, until one does.

    A remedy stays in the trials behind it if it saved memory.
    """
    assert topology.chip, "only a machine with published figures can be too small"
    usable = topology.chip.usable * topology.chip.memory
    settings: Settings = {}
    for remedy in in_order(program, plan, usable):
        for change in remedy(changed(config, settings), plan, usable):
            try:
                trial = validate(changed(config, settings | change))
                model, vocabulary = architecture(trial, topology)
                found = compile_program(program, trial, model, vocabulary, topology)
            except ConfigError:  # the rows do not divide so, or adapters do not go with the other settings
                break
            yield Trial(settings | change, found)
            if found.fits:
                return
            if found.memory and plan.memory and needed(found.memory) > SAVES * needed(plan.memory):
                break
            settings, plan = settings | change, found


def in_order(program: str, plan: Compiled, usable: float) -> list[Remedy]:
    stage = program if program in ("sft", "reward", "dpo", "distill", "ppo") else ""
    if not stage:
        return [bfloat16, adapters]
    parts, smaller, moments = (functools.partial(x, stage) for x in (more_parts, smaller_batch, eight_bits))
    waiting, fewer = ([frozen_on_host], [fewer_at_once]) if stage == "ppo" else ([], [])
    held = plan.memory.get("arguments", 0) + plan.memory.get("beside", 0)
    if held > usable:
        return [bfloat16, *waiting, moments, adapters, parts, recompute, *fewer, smaller]
    return [parts, *waiting, recompute, *fewer, bfloat16, moments, adapters, smaller]


def more_parts(stage: str, config: Config, plan: Compiled, usable: float) -> Iterator[Settings]:
    """Twice as many microbatches, and again, beginning with as many as the excess says at the least."""
    options = getattr(config, stage)
    parts, rows = 2 * options.microbatches, options.batch_size
    if isinstance(options, PpoConfig):
        rows = options.prompts // options.minibatches
    if plan.memory:
        temporaries = plan.memory["temporaries"]
        room = usable - (needed(plan.memory) - temporaries)
        while parts * room < options.microbatches * temporaries and rows % (2 * parts) == 0:
            parts *= 2
    while parts <= rows and rows % parts == 0:
        yield {f"{stage}.microbatches": parts}
        parts *= 2


def frozen_on_host(config: Config, plan: Compiled, usable: float) -> Iterator[Settings]:
    if not config.model.lora.rank:  # adapters have one base, which the policy needs, too
        yield {"ppo.frozen_on_host": True}


def recompute(config: Config, plan: Compiled, usable: float) -> Iterator[Settings]:
    if not config.model.rematerialize:
        yield {"model.rematerialize": True}


def fewer_at_once(config: Config, plan: Compiled, usable: float) -> Iterator[Settings]:
    before = config.ppo.rollout_rows or math.inf
    for rows in ROWS:
        if rows < before and config.ppo.batch_size % rows == 0 and rows % config.ppo.samples == 0:
            yield {"ppo.rollout_rows": rows}


def bfloat16(config: Config, plan: Compiled, usable: float) -> Iterator[Settings]:
    """Activations and frozen networks are half as large; what is trained stays in float32."""
    if config.model.dtype != "bfloat16":
        yield {"model.dtype": "bfloat16"}


def eight_bits(stage: str, config: Config, plan: Compiled, usable: float) -> Iterator[Settings]:
    """Of both moments; those of adapters are small."""
    if getattr(config, stage).optimizer.name == "adamw" and not config.model.lora.rank:
        yield {f"{stage}.optimizer.name": "adamw_8bit"}


def adapters(config: Config, plan: Compiled, usable: float) -> Iterator[Settings]:
    if config.model.pretrained and not config.model.lora.rank:
        yield {
            "model.lora.rank": RANK,
            **({"ppo.frozen_on_host": False} if config.ppo.frozen_on_host else {}),
        }


def smaller_batch(stage: str, config: Config, plan: Compiled, usable: float) -> Iterator[Settings]:
    """Half as many rows in half as many parts, and again."""
    options = getattr(config, stage)
    rows, parts = options.batch_size, options.microbatches
    while rows % 2 == 0 and parts % 2 == 0:
        rows, parts = rows // 2, parts // 2
        yield {f"{stage}.batch_size": rows, f"{stage}.microbatches": parts}


def changed(config: Config, settings: Settings) -> Config:
    """A copy of `config` with other values for these fields."""
    config = copy.deepcopy(config)
    for name, value in settings.items():
        *path, field = name.split(".")
        setattr(functools.reduce(getattr, path, config), field, value)
    return config


def flags_of(settings: Settings) -> str:
    """As a command line takes them."""
    return " ".join(f"--config.{name}={value}" for name, value in settings.items())
