"""Does a run fit a card or a pod, and how fast could it be at best? Compiled, not run; neither is needed.

rlhf-jax plan --config=configs/tldr_llama3_2_3b_lora_24gb.py --topology=rtx4090
rlhf-jax plan --config=configs/tldr_pythia_1b.py --topology=gpu:1x1x1 --memory=48
rlhf-jax plan --config=configs/paper_6_7b.py --topology=v5p:4x4x4
rlhf-jax plan --config=configs/paper_1_3b.py --topology=gpu:1x1x8 --stage=ppo --json=plan.json
rlhf-jax plan --config=configs/mini.py --topology=cpu:8 --config.model.pretrained=

--config=FILE         Python file with a get_config() that returns a Config
--config.FIELD=VALUE  another value for a field of rlhf_jax/config.py
--topology=NAME       one GPU: rtx4090, l4, a100-40, a100-80, h100, h200 or b200; several as
                      h100:SLICESxHOSTSxDEVICES (gpu: means h100:); a TPU slice: v4:, v5e:, v5p: or
                      v6e: and its shape; cpu:N simulated devices
--memory=GIB          another memory of each GPU, such as 24
--mesh=R,F,T          devices along replica, fsdp and tensor; without it, config.mesh: fsdp over all
--stage=STAGE         sft, reward, dpo, distill, ppo or eval; all that the run goes through: the default
--json=FILE           also writes everything there
--noremedies          leaves it at that where a stage does not fit; otherwise settings are tried until it
                      does, those first that cost least in speed
--search              tries meshes, microbatches and rematerialisation, and lists what fits

Public models are known by name, others need their folder. TPU slices need the compiler of
pip install -e '.[plan-tpu]', GPUs that of '.[plan-gpu]'.
"""

import dataclasses
import datetime
import importlib.metadata

from absl import flags

from rlhf_jax.command_line import command
from rlhf_jax.config import Config, MeshConfig, Settings, changed
from rlhf_jax.files import write_json
from rlhf_jax.pipeline import stages
from rlhf_jax.plan.compiled import Compiled, compile_program, programs
from rlhf_jax.plan.planned import architecture
from rlhf_jax.plan.remedies import Trial, flags_of, remedies
from rlhf_jax.plan.search import best_first, search
from rlhf_jax.plan.topologies import Topology, find
from rlhf_jax.run.config_flags import parse_config

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
    flags.DEFINE_float("memory", None, "GiB of a GPU", flag_values=options)
    flags.DEFINE_list("mesh", None, "replica, fsdp, tensor", flag_values=options)
    flags.DEFINE_enum("stage", "all", (*programs(Config()), "all"), "what to compile", flag_values=options)
    flags.DEFINE_string("json", None, "file to write", flag_values=options)
    flags.DEFINE_bool("remedies", True, "try what makes it fit", flag_values=options)
    flags.DEFINE_bool("search", False, "try what fits", flag_values=options)
    config = parse_config(argv, options)
    if not options.topology:
        raise flags.Error("--topology is missing: a machine such as --topology=rtx4090 or v5p:4x4x4")
    if options.mesh is not None:
        config.mesh = _mesh(options.mesh)
    topology = find(options.topology, options.memory)
    of_stage = programs(config)
    planned = [stage for stage in stages.planned(config) if stage in of_stage]
    chosen = planned if options.stage == "all" else (options.stage,)
    wanted = [program for stage in chosen for program in of_stage[stage]]
    tried: list[Trial] = []
    if options.search:
        plans = [plan for program in wanted for plan in _searched(program, config, topology)]
    else:
        plans, tried = _planned(wanted, config, topology, options.remedies)
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
            "remedies": [trial._asdict() | {"plan": dataclasses.asdict(trial.plan)} for trial in tried],
        }
        write_json(options.json, content)


def _planned(
    wanted: list[str], config: Config, topology: Topology, with_remedies: bool
) -> tuple[list[Compiled], list[Trial]]:
    """The programs as configured, and what was tried for those that do not fit.

    What makes one fit stays for those behind it, since a run has one model.
    """
    settings: Settings = {}
    plans, tried, helpless = [], [], []
    for program in wanted:
        so_far = changed(config, settings)
        plan = compile_program(program, so_far, *architecture(so_far, topology), topology)
        print(describe(plan), flush=True)
        plans.append(plan)
        if plan.fits or not topology.chip or not with_remedies:
            continue
        print(f"What makes {program} fit, each compiled:", flush=True)
        for trial in remedies(program, so_far, topology, plan):
            print(f"  {trial.flags}\n  {line(trial.plan)}", flush=True)
            tried.append(trial)
            plan = trial.plan
        if plan.fits:
            settings |= tried[-1].settings
        else:
            helpless.append(program)
    if settings:
        print(f"With these settings {'the others fit' if helpless else 'all of this fits'}:")
        print(f"  {flags_of(settings)}")
    if helpless:
        print(
            f"None of these settings makes {', '.join(helpless)} fit; docs/howto/memory.md has more of them. "
            "Or take a larger card, or several"
        )
    return plans, tried


def _searched(program: str, config: Config, topology: Topology) -> list[Compiled]:
    tried = []
    for plan in search(program, config, *architecture(config, topology), topology):
        print(line(plan), flush=True)
        tried.append(plan)
    found = best_first(tried)
    print(f"{program}: {len(found)} of {len(tried)} fit, best bound first")
    print("\n".join(line(plan) for plan in found))
    return found


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
    verdict = f"fits{_with_fraction(plan)}" if plan.fits else "does not fit"
    return f"  {plan.program}: {settings}: {verdict}, {size}{bound}, compiled in {plan.compile_seconds:.0f} s"


def _with_fraction(plan: Compiled) -> str:
    """What the environment must say, where JAX itself would take too little of the memory."""
    return f" with XLA_PYTHON_CLIENT_MEM_FRACTION={plan.memory_fraction}" if plan.memory_fraction else ""


def in_bytes(size: float) -> str:
    """1610612736 → '1.50 GiB'."""
    exponent = min(max(int(size).bit_length() - 1, 0) // 10, 4)
    return f"{size / 2 ** (10 * exponent):.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[exponent]}"


def describe(plan: Compiled) -> str:
    """A plan as a few lines of text."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    verdict = f"fits{_with_fraction(plan)}" if plan.fits else "DOES NOT FIT"
    lines = [
        f"{plan.program} on {plan.topology}, {mesh}: {verdict} "
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
        held, peak = (plan.memory[name] / plan.model_parameters for name in ("arguments", "peak"))
        lines.append(f"  bytes a device and parameter of the model: {held:.1f} held, {peak:.1f} at the peak")
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
