"""Runs the pipeline: fine-tuning, reward model, PPO, evaluation and report.

python -m rlhf_jax.main --config=configs/mini.py --workdir=runs/mini
python -m rlhf_jax.main --config=configs/mini.py --workdir=runs/mini --stage=ppo
python -m rlhf_jax.main --config=configs/mini.py --workdir=runs/kl --config.ppo.kl_coef=0.1

--config=FILE         Python file with a get_config() that returns a Config
--config.FIELD=VALUE  another value for a field of rlhf_jax/config.py
--workdir=FOLDER      where the run is written; started again, it resumes
--stage=STAGE         sft, reward, ppo or eval alone; without it, all that have not finished
"""

import importlib
import os
import re
import sys
import time
from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from rlhf_jax import workdir as runs
from rlhf_jax.config import Config, check_context, check_name, validate

STAGES = ("sft", "reward", "ppo", "eval")


def main(argv: list[str]) -> int:
    """Exit status: 0, or 2 after an error of use, told in one line without a traceback."""
    if not {"-h", "--help"}.isdisjoint(argv):
        print(__doc__)
        return 0
    logging.set_verbosity(logging.WARNING)  # Orbax tells every file it writes
    try:
        run(*parse(argv))
    except (flags.Error, ValueError, OSError) as error:
        if not _is_for_people(error):
            raise
        print(f"rlhf_jax: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rlhf_jax: stopped; the same command resumes", file=sys.stderr)
        return 130
    return 0


def parse(argv: list[str]) -> tuple[Config, str, str | None]:
    """(config, workdir, stage or None for all) of a command line, validated."""
    _check_arguments(argv)
    options = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=options, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=options)
    flags.DEFINE_enum("stage", None, STAGES, "the one stage to run", flag_values=options)
    unknown = options(argv)[1:]
    if unknown:
        raise flags.Error(f"unexpected argument {unknown[0]!r}; --help shows the usage")
    if options.config is None:
        raise flags.Error(
            "--config is missing: a file such as --config=configs/mini.py; --help shows the usage"
        )
    if not isinstance(options.config, Config):
        raise flags.Error(f"--config: get_config() returned {type(options.config).__name__}, not a Config")
    if not options.workdir:
        raise flags.Error("--workdir is missing: the folder of the run, such as --workdir=runs/mini")
    return validate(options.config), options.workdir, options.stage


def run(config: Config, folder: str, stage: str | None) -> None:
    """Runs `stage`, or all stages that have not finished, in `folder`."""
    architecture = importlib.import_module("rlhf_jax.model.pretrained").architecture
    check_context(config, architecture(config.model))
    workdir = runs.open_workdir(folder, config)
    if stage:
        _refuse_interrupted(workdir, stage)
    for name in (stage,) if stage else STAGES:
        if not stage and runs.stage_done(workdir, name):
            print(f"{name}: finished before in {workdir}, skipped", flush=True)
        else:
            _run_stage(name, config, workdir)
    report = workdir / "report.html"
    if report.exists():
        print(f"report: {report}")


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
    for earlier in STAGES[: STAGES.index(stage)]:
        if earlier in runs.stages_interrupted(workdir):
            raise flags.Error(
                f"{stage} needs stage '{earlier}', which was stopped before its end in {workdir}: "
                f"run --stage={earlier} first, it resumes"
            )


def _check_arguments(argv: list[str]) -> None:
    """Misspelt fields and missing files, which the flag parser would report as a traceback."""
    arguments = iter(argv[1:])
    for argument in arguments:
        name, _, file = argument.partition("=")
        if name == "--config":
            file = file or next(arguments, "")
            if not os.path.isfile(file):
                raise flags.Error(f"--config: no such file {file!r}")
        if field := re.match(r"--?(?:no)?config\.(.*)", name):
            check_name(field[1])


def _is_for_people(error: Exception) -> bool:
    ours = type(error).__module__.startswith("rlhf_jax.")
    return (
        ours or isinstance(error, flags.Error) or (isinstance(error, OSError) and error.filename is not None)
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if "Traceback" in text:  # an error raised by the configuration file itself
        text = f"{text.split(':')[0]}: {text.strip().splitlines()[-1]}"
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main(sys.argv))
