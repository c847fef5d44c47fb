"""Runs the pipeline: fine-tuning, comparisons, reward model, PPO, evaluation and report.

rlhf-jax run --config=configs/mini.py --workdir=runs/mini
rlhf-jax run --config=configs/mini.py --workdir=runs/mini --stage=ppo
rlhf-jax run --config=configs/mini.py --workdir=runs/kl --fork=runs/mini --config.ppo.kl_coef=0.1

--config=FILE         Python file with a get_config() that returns a Config, or a name such as mini
--config.FIELD=VALUE  another value for a field of rlhf_jax/config.py
--workdir=FOLDER      where the run is written; started again, it resumes
--stage=STAGE         only this one: sft, collect, reward, dpo, distill, ppo, eval, or one that was added
                      to the table of rlhf_jax/pipeline/stages.py; without it, all stages of the run that
                      have not finished; round: after sft, rounds of comparisons, reward model and PPO,
                      see rlhf_jax/pipeline/rounds.py
--profile             also writes a profile of two steps of each training to WORKDIR/profile, for xprof or
                      TensorBoard, and prints how long each phase of a step takes
--fork=FOLDER         --workdir is new and continues the run in FOLDER: its finished stages are taken over,
                      but for those whose part of the configuration differs, see rlhf_jax/run/fork.py
--start_timeout=300   seconds to wait for the other hosts of a run on many
--check               only reads all this, with tables and models of this machine, and prints which stages
                      would run where: writes nothing, asks no hub and no bucket, leaves the accelerator alone
"""

import functools
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import NamedTuple

from absl import flags, logging
from etils.epath import Path

from rlhf_jax import inference
from rlhf_jax.command_line import Stopped, explain
from rlhf_jax.config import Config
from rlhf_jax.data import own_tables
from rlhf_jax.data import task as tasks
from rlhf_jax.data.records import Record
from rlhf_jax.model import pretrained
from rlhf_jax.pipeline import beforehand, own_reward, stages
from rlhf_jax.run import hosts
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.compilation_cache import keep_compiled
from rlhf_jax.run.config_flags import parse_config
from rlhf_jax.run.fork import fork
from rlhf_jax.training import inputs, tracking
from rlhf_jax.validation import check_context


class Asked(NamedTuple):
    """A command line."""

    config: Config  # validated
    workdir: str
    fork: str | None  # the run whose finished stages are taken over
    stage: str | None  # None: all
    start_timeout: float  # seconds
    check: bool  # nothing is run

    @property
    def stages(self) -> list[str]:
        return [self.stage] if self.stage else stages.planned(self.config)


def main(argv: list[str]) -> int:
    """Exit status: 0; 2 after an error of use, a full disk or memory that is not enough, told in one line
    without a traceback; 3 where another host of the run ended; 130 after Ctrl-C and 143 after SIGTERM, with
    the step of a training saved."""
    logging.set_verbosity(logging.FATAL)  # Orbax tells every file it writes, and errors that it raises too
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        asked = parse(argv)
        if asked.check:
            print(check(asked))
        else:
            run(asked)
    except (Exception, KeyboardInterrupt) as error:
        status, told = explain(error)
        if told:
            print(f"{argv[0]}: {hosts.prefix()}{told}", file=sys.stderr)
        hosts.leave(status, told)
        if not told:
            raise
        return status
    return 0


def _on_terminate(number: int, frame) -> None:
    """SIGTERM outside of a training, which has its own answer to it (rlhf_jax/training/stopping.py)."""
    raise Stopped(number, "")


def parse(argv: list[str]) -> Asked:
    """Raises flags.Error and ConfigError."""
    options = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=options)
    flags.DEFINE_string("fork", None, "run whose finished stages are taken over", flag_values=options)
    flags.DEFINE_enum(
        "stage", None, (*stages.names(), stages.ROUND), "the one stage to run", flag_values=options
    )
    flags.DEFINE_float("start_timeout", 300, "seconds for all hosts to start", 1, flag_values=options)
    flags.DEFINE_bool("profile", False, "write profiles", flag_values=options)
    flags.DEFINE_bool("check", False, "run nothing", flag_values=options)
    config = parse_config(argv, options)
    config.profile |= options.profile
    if not options.workdir:
        raise flags.Error("--workdir is missing: the folder of the run, such as --workdir=runs/mini")
    asked = options.workdir, options.fork, options.stage, options.start_timeout, options.check
    return Asked(config, *asked)


def check(asked: Asked) -> str:
    """WORKDIR: STAGES, of what would run.

    Raises as `run` does before it writes, except for a hub's model, and for a table of this machine that
    cannot be used.
    """
    config, folder, name = asked.config, Path(asked.workdir), asked.config.model.pretrained
    reads_files = "files" not in tasks.find(config.data, config.seed).unread
    tracking.require(config.track)
    model_is_here = not name or name.startswith("mini/") or Path(name).expanduser().is_dir()
    if model_is_here:
        check_context(config, pretrained.architecture(config.model))
    own_reward.check(config.ppo)
    todo = asked.stages
    if "://" not in asked.workdir:
        if folder.is_file():
            raise runs.WorkdirError(f"--workdir: {folder} is a file; name a folder")
        if (folder / "config.json").exists():
            runs.refuse_another(folder, config, inputs.same(config))
            todo = [stage for stage in todo if asked.stage or not runs.stage_done(folder, stage)]
    source = asked.fork if asked.fork and "://" not in asked.fork else None
    if source:
        runs.read_config(source)
    some: list[Record] = []
    if reads_files and own_tables.are_here(config.data):
        with redirect_stdout(sys.stderr):  # where what is found is told, for the answer is one line
            some = beforehand.look(config, _not_done_in(source, todo))
    elif reads_files:
        print(f"data.files: not read, for not all of {config.data.files} is on this machine", file=sys.stderr)
    if model_is_here:
        beforehand.encode(config, some, _tokenizer_place(config, source))
    else:
        print(f"model.pretrained: {name} is no folder here, and the hub is not asked", file=sys.stderr)
    if (start := config.model.lora.start) and not Path(start).expanduser().is_dir():
        print(f"model.lora.start: {start} is no folder here, and the hub is not asked", file=sys.stderr)
    return f"{folder}: {', '.join(todo) or 'nothing; all stages have finished'}"


def _tokenizer_place(config: Config, source: str | None) -> Path | None:
    """The run that is forked, or else the folder of the model that a run starts from, where there is one."""
    if source:
        return Path(source)
    return pretrained.folder_of(config.model.pretrained) if config.model.pretrained else None


def _not_done_in(source: str | None, names: Sequence[str]) -> list[str]:
    """The stages that are not taken over from the run that is forked, where there is one."""
    return [name for name in names if not source or not runs.stage_done(Path(source), name)]


def run(asked: Asked) -> None:
    """Runs the stage that is asked for, or all that have not finished, together with the other hosts."""
    config, folder, source, stage, start_timeout, _ = asked
    keep_compiled(folder)
    hosts.start(start_timeout)
    tasks.find(config.data, config.seed)  # told before anything is written
    some = [] if runs.has_begun(Path(folder)) else beforehand.look(config, _not_done_in(source, asked.stages))
    if some:
        beforehand.encode(config, some, _tokenizer_place(config, source))
    if hosts.is_first():
        own_reward.check(config.ppo)
    check_context(config, inference.architecture_in(folder, config))
    if hosts.is_first():  # which alone sends
        tracking.require(config.track)
    same = inputs.same(config)
    if source and hosts.is_first():
        others = functools.partial(inputs.others, config)
        fork(config, Path(source), Path(folder), stages.STAGES, same, others)
    workdir = hosts.after_first(
        "the work folder", lambda: runs.open_workdir(folder, config, hosts.is_first(), same)
    )
    if stage and hosts.is_first():
        stages.refuse_interrupted(config, workdir, stage)
    if stage == stages.ROUND:
        from rlhf_jax.pipeline import rounds  # which draws its pages with what takes seconds to import

        rounds.run(config, workdir)
        return
    if stage:
        stages.run_stage(stages.find(stage), config, workdir)
    else:
        stages.run_stages(config, workdir)
    report = workdir / "report.html"
    if report.exists():
        print(f"report: {report}")
    hosts.finish()


if __name__ == "__main__":  # python -m rlhf_jax.main, in job scripts that are older than `rlhf-jax run`
    from rlhf_jax.__main__ import run as run_command

    sys.exit(run_command(["run", *sys.argv[1:]]))
