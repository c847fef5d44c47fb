"""rlhf-jax COMMAND …: every command of this package; `rlhf-jax COMMAND --help` shows the usage of one."""

import ast
import importlib
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

COMMANDS = {  # its module, and what it does
    "run": ("main", "the pipeline: fine-tuning, comparisons, reward model, PPO, evaluation and report"),
    "write": ("writing.write", "a trained policy asked for texts: of a file, in a terminal, over HTTP"),
    "ask": ("pipeline.ask", "pairs of summaries for people to compare"),
    "serve": ("feedback.serve", "the labelling site"),
    "answers": ("feedback.answers", "what people answered there, as comparisons, ratings and demonstrations"),
    "hours": ("feedback.hours", "how long each person worked there, and their pay"),
    "backup": ("feedback.backup", "a copy of the labelling site's store, while it runs"),
    "restore": ("feedback.restore", "such a copy put back"),
    "agreement": ("feedback.agreement", "how much the people agree with each other and with researchers"),
    "view": ("feedback.viewer", "a site for reading samples side by side"),
    "compare": ("report.compare", "runs on one page: settings, final figures, curves; and as a table"),
    "export": ("pipeline.export", "a trained network as a folder that transformers opens"),
    "checkpoint": ("run.listing", "the steps of a run: list, verify, show"),
    "plan": ("plan.fit", "whether a run fits a machine that is not there"),
    "plan-table": ("plan.table", "the same for several runs and machines, as a page"),
    "pretrain": ("pipeline.pretrain", "a base model of the miniature"),
    "labelers": ("data.mini.labelers", "fits the noise of the miniature's labelers"),
    "attacks": ("experiments.attacks", "whether the miniature's gold judge can be fooled"),
    "likert": ("evaluation.likert", "people's ratings by axis"),
    "ratings": ("data.news_ratings", "published ratings of news summaries, as comparisons"),
    "feedback": ("experiments.feedback", "which kind of human feedback is worth its price"),
    "overoptimization": ("experiments.overoptimization", "preference and reward along KL"),
    "methods": ("experiments.methods", "PPO beside other ways to learn from the same feedback"),
    "scaling": ("experiments.scaling", "reward models and policies along data and size"),
    "transfer": ("experiments.transfer", "policies of posts on news"),
    "metric-agreement": ("experiments.metric_agreement", "how often metrics agree with people and judge"),
    "probes": ("experiments.probes", "what the reward model reacts to"),
    "judged": ("experiments.judged", "a finished run's policies, judged by a language model or by people"),
    "results": ("experiments.results", "the page of findings"),
}
HELP = {"-h", "--help"}
FORMER = {"collect": "ask"}  # names that commands had


def main() -> int:
    """The exit status of the command that the command line names; 2 where it names none."""
    sys.path.insert(0, "")  # as python -m does: tasks and configurations are modules of this folder
    words = sys.argv[1:] or ["--help"]
    try:
        status = run(words)
        if sys.stdout:
            sys.stdout.flush()
        if status > 128:  # a signal came, maybe while other threads compile or save: they end with it
            os._exit(status)
        return status
    except KeyboardInterrupt:  # while modules are imported
        return _stopped(words[0])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python flushes at its end
        if HELP.isdisjoint(words):  # of which head may have enough
            print(f"rlhf-jax {words[0]}: stopped, as what reads its output has ended", file=sys.stderr)
        return 1


def run(words: list[str]) -> int:
    """The exit status of the command `words[0]` with the arguments behind it."""
    name, *arguments = words
    if name in HELP:
        print(__doc__, *(f"  {name:18}{does}" for name, (_, does) in COMMANDS.items()), sep="\n")
        return 0
    name = name.replace("_", "-")
    if name in FORMER:
        print(f"rlhf-jax: {name} is now {FORMER[name]}", file=sys.stderr)
        name = FORMER[name]
    if name not in COMMANDS:
        print(f"rlhf-jax: {name!r} is no command; rlhf-jax --help lists them", file=sys.stderr)
        return 2
    module = f"rlhf_jax.{COMMANDS[name][0]}"
    if not HELP.isdisjoint(arguments):
        print(usage(module))
        return 0
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # whose exception an extension that is being imported may lose
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(_stopped(name)))
    try:
        command = importlib.import_module(module).main
    finally:
        signal.signal(signal.SIGINT, usual)
    return command([f"rlhf-jax {name}", *map(at_home, arguments)])


def _stopped(name: str) -> int:
    print(f"rlhf-jax {name}: stopped by SIGINT", file=sys.stderr, flush=True)
    return 130


def at_home(argument: str) -> str:
    """--workdir=~/run with the person's home in it, which most shells leave as it is behind a `=`."""
    flag, equals, value = argument.partition("=")
    if not flag.startswith("-") or flag.startswith("--config."):  # those are kept as the person writes them
        return argument
    return flag + equals + os.path.expanduser(value)


def usage(module: str) -> str:
    """The docstring of a module, read without importing it: JAX takes seconds."""
    spec = find_spec(module)
    assert spec and spec.origin
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


if __name__ == "__main__":
    sys.exit(main())
