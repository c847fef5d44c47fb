"""Learning to summarize from human feedback, in JAX.

README.md draws the folders in the order of the data. Every network is the same decoder-only transformer
(`model/transformer.py`) with its own parameters, and every method a few short formulas (`functional/`).

Letters in array shapes: B rows, Q query tokens, R response tokens, T tokens of a whole row,
V vocabulary, D width, H key-value heads, G query heads a key-value head, K head dimension,
F hidden units, L layers, N samples, P prompts.
"""

import os
import re
import sys

_ROOMS = {  # of modules that once stood elsewhere: old name, or old name:new name
    "data": "data.sources:task evaluation.names:names",
    "data.mini": "feedback.simulated:labelers",
    "data.tasks": "data.tldr:tldr data.cnndm:cnndm",
    "evaluation": "evaluation.agreement:choices evaluation.probes:alterations",
    "experiments": "experiments.agreement:metric_agreement experiments.opened:command",
    "feedback": "feedback.export:answers feedback.questions:discussion",
    "pipeline": "collect:ask evaluation.evaluate:evaluate export ppo pretrain reward rollout rounds sft",
    "report": "evaluation.report:page evaluation.rounds_report:rounds_page "
    "evaluation.plots:page_plots evaluation.figures:paper_figures",
    "run": "checkpoint config_flags fork hosts listing manifest:steps storage workdir",
    "training": "health loop metrics profiling state stopping",
}
_PAIRS = [(room, *word.split(":")) for room in _ROOMS for word in _ROOMS[room].split()]
_MOVED = {f"rlhf_jax.{old}": f"rlhf_jax.{room}.{(*new, old)[0]}" for room, old, *new in _PAIRS}


def _command(module: str) -> str:
    """The command that a module holds, or held under this name; empty where it is none."""
    from rlhf_jax.__main__ import COMMANDS

    names = {module.removeprefix("rlhf_jax."), _MOVED.get(module, module).removeprefix("rlhf_jax.")}
    found = [name for name, (place, _) in COMMANDS.items() if names & {name, place}]
    return found[0] if found else ""


class _Moved:
    """Answers who asks for a module by its old name, in an import or after `python -m`, with the new one."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in _MOVED:
            command = _command(name) and f"; the command is rlhf-jax {_command(name)}"
            raise ImportError(f"{name} is now {_MOVED[name]}{command}")


sys.meta_path.append(_Moved)
if sys.argv[:1] == ["-m"]:  # while Python looks for the module that follows it
    _words = iter(sys.orig_argv)
    _module = next((next(_words, "") for word in _words if re.fullmatch("-[A-Za-z]*m", word)), "")
    if _module.startswith("rlhf_jax.") and _module != "rlhf_jax.main" and _command(_module):
        print(f"python -m {_module} is now rlhf-jax {_command(_module)}", file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, "-m", "rlhf_jax", _command(_module), *_words])
