"""Runs the pipeline: fine-tuning, reward model, PPO, evaluation and report.

python -m rlhf_jax.main --config=configs/mini.py --workdir=runs/mini
python -m rlhf_jax.main --config=configs/mini.py --workdir=runs/mini --stage=ppo
python -m rlhf_jax.main --config=configs/mini.py --workdir=runs/kl --config.ppo.kl_coef=0.1

--config=FILE         Python file with a get_config() that returns a Config
--config.FIELD=VALUE  another value for a field of rlhf_jax/config.py
--workdir=FOLDER      where the run is written; started again, it resumes
--stage=STAGE         sft, reward, ppo or eval alone; without it, all that have not finished;
                      round: after sft, rounds of comparisons, reward model and PPO, see rlhf_jax/rounds.py
"""

import importlib
import sys
import time
from pathlib import Path

from absl import flags, logging

from rlhf_jax import workdir as runs
from rlhf_jax.command_line import parse_config, status_of
from rlhf_jax.config import Config, check_context

STAGES = ("sft", "reward", "ppo", "eval")


def main(argv: list[str]) -> int:
    """Exit status: 0, or 2 after an error of use, told in one line without a traceback."""
    if not {"-h", "--help"}.isdisjoint(argv):
        print(__doc__)
        return 0
    logging.set_verbosity(logging.WARNING)  # Orbax tells every file it writes
    return status_of(lambda: run(*parse(argv)))


def parse(argv: list[str]) -> tuple[Config, str, str | None]:
    """(config, workdir, stage or None for all) of a command line, validated."""
    options = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=options)
    flags.DEFINE_enum("stage", None, (*STAGES, "round"), "the one stage to run", flag_values=options)
    config = parse_config(argv, options)
    if not options.workdir:
        raise flags.Error("--workdir is missing: the folder of the run, such as --workdir=runs/mini")
    return config, options.workdir, options.stage


def run(config: Config, folder: str, stage: str | None) -> None:
    """Runs `stage`, or all stages that have not finished, in `folder`."""
    architecture = importlib.import_module("rlhf_jax.model.pretrained").architecture
    check_context(config, architecture(config.model))
    workdir = runs.open_workdir(folder, config)
    if stage:
        _refuse_interrupted(workdir, stage)
    if stage == "round":
        importlib.import_module("rlhf_jax.rounds").run(config, workdir, _pipeline)
        return
    if stage:
        _run_stage(stage, config, workdir)
    else:
        _pipeline(config, workdir)
    report = workdir / "report.html"
    if report.exists():
        print(f"report: {report}")


def _pipeline(config: Config, workdir: Path) -> None:
    """All stages that have not finished."""
    for stage in STAGES:
        if runs.stage_done(workdir, stage):
            print(f"{stage}: finished before in {workdir}, skipped", flush=True)
        else:
            _run_stage(stage, config, workdir)


def _run_stage(stage: str, config: Config, workdir: Path) -> None:
    runs.record_seconds(workdir, stage, 0.0)
    start = time.monotonic()
    try:
        if stage == "eval":
            importlib.import_module("rlhf_jax.evaluation.evaluate").run(config, workdir)
        else:
            importlib.import_module(f"rlhf_jax.{stage}").train(config, workdir)
    finally:
        runs.record_seconds(workdir, stage, time.monotonic() - start)
    runs.mark_done(workdir, stage)
    print(f"{stage}: finished, {runs.read_seconds(workdir)[stage]:.0f} s", flush=True)


def _refuse_interrupted(workdir: Path, stage: str) -> None:
    """A stage must not read the checkpoint of an earlier one that was stopped half-way."""
    earlier_stages = ("sft",) if stage == "round" else STAGES[: STAGES.index(stage)]
    for earlier in earlier_stages:
        if earlier in runs.stages_interrupted(workdir):
            raise flags.Error(
                f"{stage} needs stage '{earlier}', which was stopped before its end in {workdir}: "
                f"run --stage={earlier} first, it resumes"
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
