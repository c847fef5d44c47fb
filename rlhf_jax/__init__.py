"""Learning to summarize from human feedback, in JAX.

The pipeline, in the order of the data:

    data/         records, tasks, tokenizer, batches; the miniature
    pipeline/     fine-tune on demonstrations (sft), ask people (ask, collect), learn what they prefer
                  (reward), train against it with a KL penalty in one compiled step (rollout, ppo), evaluate
    evaluation/   judges and measures
    report/       the pages that show a run

Everything is one decoder-only transformer (`model/transformer.py`) with other parameters and a
few short formulas (`functional/`).

Letters in array shapes: B rows, Q query tokens, R response tokens, T tokens of a whole row,
V vocabulary, D width, H key-value heads, G query heads a key-value head, K head dimension,
F hidden units, L layers, N samples.
"""

import sys

_ROOMS = {  # of modules that once stood beside this file
    "pipeline": "collect export ppo pretrain reward rollout rounds sft",
    "run": "checkpoint config_flags fork hosts listing storage workdir",
    "training": "health loop metrics profiling state stopping",
}
_MOVED = {f"rlhf_jax.{name}": f"rlhf_jax.{room}.{name}" for room in _ROOMS for name in _ROOMS[room].split()}
_MOVED |= {"rlhf_jax.manifest": "rlhf_jax.run.steps", "rlhf_jax.collect": "rlhf_jax.pipeline.ask"}


def _hint(module: str) -> str:
    from rlhf_jax.__main__ import COMMANDS

    names = [name for name, (place, _) in COMMANDS.items() if f"rlhf_jax.{place}" == module]
    return f"the command is rlhf-jax {names[0]}" if names else "rlhf-jax --help lists the commands"


class _Moved:
    """Answers who asks for a module by its old name, in an import or after `python -m`, with the new one."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in _MOVED:
            raise ImportError(f"{name} is now {_MOVED[name]}; {_hint(_MOVED[name])}")


sys.meta_path.append(_Moved)
if sys.argv[:1] == ["-m"]:  # while Python looks for the module
    _module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    if _module.startswith("rlhf_jax.") and _module not in _MOVED:
        print(f"{_module} is no command by itself: {_hint(_module)}", file=sys.stderr)
        sys.exit(2)
