"""How much a policy's responses differ, and how far they are the one response that the judge likes best.

A policy that has learned a template, or the judge's own answer, is found by this and not by a mean rating.
"""

from collections import Counter
from collections.abc import Sequence

from rlhf_jax.data.records import Record
from rlhf_jax.data.task import Task


def diversity(
    task: Task, records: Sequence[Record], responses: Sequence[str], ideals: Sequence[str | None]
) -> dict[str, float]:
    """Figures of one response to each record; `ideals` are `task.ideal` of each.

    `distinct`, `distinct_share`: different responses, and their share. Where the task tells forms, `forms`:
    different ones, and `commonest_form`: the share of the commonest. Where it knows ideals, `ideal`: the
    share that is the ideal to the letter, and `ideal_claims`: the share that says the same as it.
    """
    texts, count = [" ".join(text.split()) for text in responses], len(responses)
    found: dict[str, float] = {"distinct": len(set(texts)), "distinct_share": len(set(texts)) / count}
    forms = Counter(form for text in texts if (form := task.form(text)) is not None)
    if forms:
        found |= {"forms": len(forms), "commonest_form": max(forms.values()) / count}
    known = [(text, ideal) for text, ideal in zip(texts, ideals, strict=True) if ideal is not None]
    if known:
        same = [task.claims(text) == task.claims(ideal) for text, ideal in known]
        found["ideal"] = sum(text == ideal for text, ideal in known) / len(known)
        found["ideal_claims"] = sum(same) / len(known)
    return found
