"""Does a run fit a pod, and how fast could it be at best? Compiled, not run; no accelerator is needed.

rlhf-jax plan --config=configs/paper_6_7b.py --topology=v5p:4x4x4
rlhf-jax plan --config=configs/paper_1_3b.py --topology=gpu:1x1x8 --stage=ppo --json=plan.json
rlhf-jax plan --config=configs/mini.py --topology=cpu:8 --config.model.pretrained=

--config=FILE         Python file with a get_config() that returns a Config
--config.FIELD=VALUE  another value for a field of rlhf_jax/config.py
--topology=NAME       TPU slice (v4:, v5e:, v5p:, v6e: and its shape), H100s as gpu:SLICESxHOSTSxDEVICES,
                      or cpu:N simulated devices
--mesh=R,F,T          devices along replica, fsdp and tensor; without it, config.mesh: fsdp over all
--stage=STAGE         sft, reward, dpo, distill, ppo or eval; all that the run goes through: the default
--json=FILE           also writes everything there
--search              tries meshes, microbatches and rematerialisation, and lists what fits

TPU slices need the compiler of pip install -e '.[plan-tpu]', H100s that of '.[plan-gpu]'.
"""

import dataclasses
import datetime
import importlib.metadata
from pathlib import Path

from absl import flags

from rlhf_jax.command_line import command
from rlhf_jax.config import Config, ConfigError, MeshConfig, ModelConfig
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.files import write_json
from rlhf_jax.model import attention, pretrained
from rlhf_jax.pipeline import stages
from rlhf_jax.plan.compiled import Compiled, compile_program, programs
from rlhf_jax.plan.search import best_first, search
from rlhf_jax.plan.topologies import Topology, find
from rlhf_jax.run.config_flags import parse_config
from rlhf_jax.validation import check_context

ASSUMED = (
    "Compiled, not run. Longest bucket, full rows, no response ends early; an SFT row holds one post. "
    "The scratch memory of cuDNN's attention, which only a GPU tells, is not counted. "
    "The bound is what published peaks of chip, memory and links allow at best."
)


def main(argv: list[str]) -> int:
    return command(argv, lambda: run(argv))


def run(argv: list[str]) -> None:
    options = flags.FlagValues()
    flags.DEFINE_string("topology", None, "the machine", flag_values=options)
    flags.DEFINE_list("mesh", None, "replica, fsdp, tensor", flag_values=options)
    flags.DEFINE_enum("stage", "all", (*programs(Config()), "all"), "what to compile", flag_values=options)
    flags.DEFINE_string("json", None, "file to write", flag_values=options)
    flags.DEFINE_bool("search", False, "try what fits", flag_values=options)
    config = parse_config(argv, options)
    if not options.topology:
        raise flags.Error("--topology is missing: a machine such as --topology=v5p:4x4x4")
    if options.mesh is not None:
        config.mesh = _mesh(options.mesh)
    topology = find(options.topology)
    model, vocabulary = architecture(config, topology)
    plans: list[Compiled] = []
    of_stage = programs(config)
    planned = [stage for stage in stages.planned(config) if stage in of_stage]
    for stage in planned if options.stage == "all" else (options.stage,):
        for program in of_stage[stage]:
            if options.search:
                tried = []
                for plan in search(program, config, model, vocabulary, topology):
                    print(line(plan), flush=True)
                    tried.append(plan)
                found = best_first(tried)
                print(f"{program}: {len(found)} of {len(tried)} fit, best bound first")
                print("\n".join(line(plan) for plan in found))
                plans += found
            else:
                plans.append(compile_program(program, config, model, vocabulary, topology))
                print(describe(plans[-1]), flush=True)
    print(ASSUMED)
    if topology.chip:
        print(f"Published figures: {topology.chip.source}")
    if options.json:
        content = {
            "what": ASSUMED,
            "date": datetime.date.today().isoformat(),
            "jax": importlib.metadata.version("jax"),
            "compiler": topology.compiler,
            "plans": [dataclasses.asdict(plan) for plan in plans],
        }
        write_json(options.json, content)


def architecture(config: Config, topology: Topology) -> tuple[ModelConfig, int]:
    """The model as an accelerator compiles it, and the rows of its embedding.

    Raises ConfigError for a pretrained model that is not on disk: planning asks no hub.
    """
    name = config.model.pretrained
    if name and not name.startswith("mini/") and not Path(name).expanduser().is_dir():
        raise ConfigError(
            f"model.pretrained: {name!r} is no folder here, and planning asks no hub: name a folder, or set "
            "--config.model.pretrained= with the sizes of --config.model and --config.data.vocabulary"
        )
    model = pretrained.architecture(config.model)
    check_context(config, model)
    model = as_on(topology.platform, model)
    if name:
        return model, load_tokenizer(pretrained.folder_of(name)).vocab_size
    if config.data.tokenizer:
        return model, load_tokenizer(Path(config.data.tokenizer).expanduser()).vocab_size
    return model, config.data.vocabulary


def as_on(platform: str, model: ModelConfig) -> ModelConfig:
    """`model` with what its `auto` settings are on a platform: they ask the backend, which is a CPU here."""
    if platform == "cpu":
        return model
    loop = "scan" if model.layer_loop == "auto" else model.layer_loop
    backend = "gpu" if platform == "cuda" else platform
    kernel = attention.choose(model.attention, model.dtype, model.head_dimension, backend)
    return dataclasses.replace(model, layer_loop=loop, attention=kernel)


def _mesh(sizes: list[str]) -> MeshConfig:
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise flags.Error(f"--mesh: {','.join(sizes)!r} should be three sizes, such as --mesh=1,16,4")
    return MeshConfig(*map(int, sizes))


def line(plan: Compiled) -> str:
    """A plan on one line, for lists."""
    settings = f"mesh {','.join(map(str, plan.mesh.values()))}, microbatches {plan.microbatches}"
    settings += ", activations recomputed" if plan.rematerialize else ", activations kept"
    size = f"{in_bytes(plan.memory['total'])} a device" if plan.memory else plan.reason
    bound = f", bound {plan.bound['seconds']:.3g} s a step" if plan.bound else ""
    verdict = "fits" if plan.fits else "does not fit"
    return f"  {plan.program}: {settings}: {verdict}, {size}{bound}, compiled in {plan.compile_seconds:.0f} s"


def in_bytes(size: float) -> str:
    """1610612736 → '1.50 GiB'."""
    exponent = min(max(int(size).bit_length() - 1, 0) // 10, 4)
    return f"{size / 2 ** (10 * exponent):.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[exponent]}"


def describe(plan: Compiled) -> str:
    """A plan as a few lines of text."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [
        f"{plan.program} on {plan.topology}, {mesh}: {'fits' if plan.fits else 'DOES NOT FIT'} "
        f"({plan.compiler}, {plan.compile_seconds:.0f} s)"
    ]
    if plan.reason:
        lines.append(f"  {plan.reason}")
    if plan.memory:
        sizes = {name: in_bytes(size) for name, size in plan.memory.items()}
        lines.append(
            "  a device: arguments {arguments}, outputs {outputs}, temporaries {temporaries}; "
            "peak {peak}, sum without aliases {total}; beside the program {beside}".format(**sizes)
        )
    lines.append(
        f"  {plan.parameters:,} parameters, optimizer {in_bytes(plan.optimizer_bytes)} in all; "
        f"{plan.flops:.3g} useful FLOPs a step; "
        f"{in_bytes(sum(plan.collectives.values()))} received a device and step"
    )
    if plan.bound:
        parts = ", ".join(f"{name} {plan.bound[name]:.3g}" for name in ("compute", "memory", "links"))
        hours = ", ".join(f"{hours:.3g} at {share}" for share, hours in plan.chip_hours.items())
        lines.append(f"  at least {plan.bound['seconds']:.3g} s a step ({parts})")
        lines.append(f"  {plan.steps:,} steps; chip-hours: {hours} of the bound")
    return "\n".join(lines)
