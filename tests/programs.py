"""Training steps that several runs of a test module share, so that each is traced and compiled once."""

from rlhf_jax.pipeline import distill, dpo, ppo, reward, sft

MAKERS = (
    *((stage, "starting") for stage in (sft, reward, dpo, distill)),  # with the optimizer that a step knows
    *((stage, "jitted_step") for stage in (sft, reward, dpo)),
    *((ppo, name) for name in ("make_optimizer", "jitted_iteration", "jitted_halves")),
)


def share(patch, made: dict) -> None:
    """Has runs of equal settings take one program out of `made`, whose first run puts it there.

    Not for a test that exchanges something of what is compiled: an earlier program would not hold it.
    """

    def once(make):
        def made_once(*given):
            return made.setdefault((make.__module__, make.__name__, repr(given)), make(*given))

        return made_once

    for module, name in MAKERS:
        patch.setattr(module, name, once(getattr(module, name)))
