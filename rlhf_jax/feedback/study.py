"""How a study asks people: its kinds of task, instructions, axes and shares, from a TOML file.

    name = "Summaries of posts, round 1"
    instructions = "A good summary tells somebody who has not read the post …"
    kinds = ["comparison", "likert"]
    steps = ["interpret", "choose"]  # of a comparison; without "interpret" the post shows at once
    quota = 200                      # tasks a labeler does; 0: as many as there are
    calibration = 0.15               # share of them that everybody does
    people_per_task = 1              # people who do each of the other tasks
    held_out = 0.05                  # share of the posts in valid1, and as many again in valid2
    batch = "round1"                 # of exported records whose task names none

    [[axes]]                         # of Likert tasks; without any, the paper's four
    name = "accuracy"
    question = "Does everything the summary says stand in the post?"
    low = "says what the post does not"
    high = "all of it stands in the post"

    [onboarding]
    records = "onboarding.jsonl"     # comparisons that researchers have answered, beside this file
    agreement = 0.7                  # share of their choices that a new labeler must reach
    seconds = 300                    # median time a task that the labeler must stay below

    [labelers."Ana"]                 # what one labeler does, by the name on the administrator's page
    quota = 50                       # in place of the study's
    kinds = ["comparison"]           # these of the study's kinds alone
    batches = ["round2"]             # tasks of these batches alone

Every field may be left out, `onboarding.records` alone not where there is an onboarding.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from rlhf_jax.data.visible import has_text

KINDS = ("comparison", "likert", "demonstration", "edit", "explanation")
STEPS = ("interpret", "choose")
MOST_AXES = 50
MOST_HELD_OUT = 0.4  # of the posts in valid1, and as many again in valid2
INSTRUCTIONS = """\
A good summary tells somebody who has not read the post what the writer would want them to know: \
what happened, and what is asked. It is true to the post, leaves out what matters least, and reads \
well on its own.

Judge the summary, not the writer of the post. Where two summaries are equally good, say so. \
Take the time you need; ask when a task is unclear, the answer helps everybody."""


class StudyError(ValueError):
    """A study's settings that cannot be used; names file and field."""


# Readers of settings, by which the fields below are annotated: each takes a value of the file and the name of
# the field it stands in, and gives what the study holds.


def _value(said: str, fits: Callable[[Any], Any], kept: Callable[[Any], Any] = lambda value: value):
    """A reader of a value that `fits`, which gives what is `kept` of it; an error says what it should be."""

    def read(value, where: str):
        if not fits(value):
            raise StudyError(f"field {where} should be {said}, not {value!r}")
        return kept(value)

    return read


def _whole(least: int):
    return _value(f"a whole number from {least} up", lambda value: type(value) is int and value >= least)


def _number(said: str, fits: Callable[[float], bool]):
    return _value(said, lambda value: type(value) in (int, float) and fits(value), float)


def _texts(value, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise StudyError(f"field {where} should be a list of one or more texts, not {value!r}")
    return tuple(_text(item, f"{where}[{i}]") for i, item in enumerate(value))


def _axes(value, where: str) -> "tuple[Axis, ...]":
    if not isinstance(value, list) or not value:
        raise StudyError(f"field {where} should be one or more tables [[{where}]]")
    axes = tuple(_table(Axis, item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(axes) > MOST_AXES:
        raise StudyError(f"field {where} has {len(axes)} axes; a form holds at most {MOST_AXES}")
    if len({axis.name for axis in axes}) < len(axes):
        raise StudyError(f"field {where} names an axis twice")
    return axes


def _labelers(value, where: str) -> "dict[str, Labeler]":
    if not isinstance(value, dict):
        raise StudyError(f"field {where} should be tables [{where}.NAME]")
    return {name: _table(Labeler, table, f"{where}.{name}") for name, table in value.items()}


def _path(value, where: str) -> Path:
    return Path(_text(value, where))


def _table(cls: type, table, where: str) -> Any:
    """An object of a class whose fields are annotated with their readers."""
    if not isinstance(table, dict):
        raise StudyError(f"field {where} should be a table")
    prefix = f"{where}." if where else ""
    hints = get_type_hints(cls, include_extras=True)
    for name in table:
        if name not in hints:
            raise StudyError(f"field {prefix}{name} is not a setting; there are {', '.join(sorted(hints))}")
    for f in fields(cls):
        if f.name not in table and f.default is MISSING and f.default_factory is MISSING:
            raise StudyError(f"field {prefix}{f.name} is missing")
    return cls(**{name: hints[name].__metadata__[0](value, prefix + name) for name, value in table.items()})


_text = _value("a text", lambda value: isinstance(value, str) and has_text(value))
_word = _value("one word, such as accuracy", lambda value: isinstance(value, str) and value.isidentifier())
_share = _number("a share from 0 to 1", lambda value: 0 <= value <= 1)
_held_out = _number(f"a share from 0 to {MOST_HELD_OUT}", lambda value: 0 <= value <= MOST_HELD_OUT)
_kinds = _value(
    f"some of {', '.join(KINDS)}",
    lambda value: isinstance(value, list) and value and all(item in KINDS for item in value),
    lambda value: tuple(kind for kind in KINDS if kind in value),
)
_steps = _value(
    '["interpret", "choose"] or ["choose"]', lambda value: value in (["choose"], list(STEPS)), tuple
)


@dataclass(frozen=True)
class Axis:
    """One quality that a Likert task rates from 1 (`low`) to 7 (`high`)."""

    name: Annotated[str, _word]
    question: Annotated[str, _text]
    low: Annotated[str, _text] = "very bad"
    high: Annotated[str, _text] = "could not be better"


AXES = (
    Axis(
        "coherence",
        "Read on its own, is the summary clear?",
        "impossible to follow",
        "clear at the first reading",
    ),
    Axis(
        "accuracy",
        "Does everything the summary says stand in the post?",
        "says what the post does not",
        "all of it stands in the post",
    ),
    Axis(
        "coverage",
        "Does the summary hold what somebody needs to know to understand the situation in the post?",
        "misses what matters",
        "nothing that matters is missing",
    ),
    Axis(
        "overall",
        "All in all, how well does the summary stand for the post?",
        "worse than none",
        "could not be better",
    ),
)


RESPONSE_INSTRUCTIONS = """\
A good response does what the prompt asks. What it says is true, it leaves nothing out that matters, and \
it reads well.

Judge the response, not the prompt. Where two responses are equally good, say so. Take the time you need; \
ask when a task is unclear, the answer helps everybody."""
RESPONSE_AXES = (
    Axis("coherence", "Is the response clear?", "impossible to follow", "clear at the first reading"),
    Axis("accuracy", "Is everything the response says true?", "false throughout", "all of it is true"),
    Axis("coverage", "Does the response do all that the prompt asks?", "nothing of it", "all of it"),
    Axis("overall", "All in all, how good is the response?", "worse than none"),
)


@dataclass(frozen=True)
class Onboarding:
    """The training set before real tasks: `records`, a file of answered comparisons, and the pass mark."""

    records: Annotated[Path, _path]
    agreement: Annotated[float, _share] = 0.7
    seconds: Annotated[float, _number("a number of seconds above 0", lambda value: value > 0)] = 300.0


@dataclass(frozen=True)
class Labeler:
    """What is given to one labeler. `quota` None: the study's; no kinds or batches: all of them."""

    quota: Annotated[int | None, _whole(0)] = None
    kinds: Annotated[tuple[str, ...], _kinds] = ()
    batches: Annotated[tuple[str, ...], _texts] = ()


@dataclass(frozen=True)
class Study:
    """The settings of a labelling site; see the module's example."""

    name: Annotated[str, _text] = "Summaries"
    instructions: Annotated[str, _text] = INSTRUCTIONS
    kinds: Annotated[tuple[str, ...], _kinds] = ("comparison", "likert", "demonstration")
    steps: Annotated[tuple[str, ...], _steps] = STEPS
    axes: Annotated[tuple[Axis, ...], _axes] = AXES
    quota: Annotated[int, _whole(0)] = 0
    calibration: Annotated[float, _share] = 0.15
    people_per_task: Annotated[int, _whole(1)] = 1
    held_out: Annotated[float, _held_out] = 0.05
    batch: Annotated[str, _text] = "site"
    onboarding: Annotated[Onboarding | None, partial(_table, Onboarding)] = None
    labelers: Annotated[Mapping[str, Labeler], _labelers] = field(default_factory=dict)

    def quota_of(self, name: str) -> int:
        """Tasks that a labeler does; 0: as many as there are."""
        own = self.labelers.get(name, Labeler()).quota
        return self.quota if own is None else own


# Of tasks about prompts, where nobody has written a study: the paper's questions are about summaries.
OF_RESPONSES = Study("Responses", RESPONSE_INSTRUCTIONS, axes=RESPONSE_AXES)


def read_study(path: Path) -> Study:
    """Raises StudyError naming the file and, for a bad setting, its field."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: not UTF-8 text") from None
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, or a list as deep
        raise StudyError(f"{path}: not TOML ({error})") from None
    try:
        study = _table(Study, table, "")
        if study.onboarding and "comparison" not in study.kinds:
            raise StudyError("field onboarding needs comparisons, which field kinds does not name")
        for name, labeler in study.labelers.items():
            for kind in labeler.kinds:
                if kind not in study.kinds:
                    where = f"labelers.{name}.kinds"
                    raise StudyError(f"field {where} has {kind}, which field kinds does not name")
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None
    if study.onboarding:
        records = path.parent / study.onboarding.records
        study = replace(study, onboarding=replace(study.onboarding, records=records))
    return study
