"""The process of a reward of one's own, which rlhf_jax/evaluation/scorers.py starts and asks.

A JSON object with a batch comes in as a line, one with `values` or `error` goes out; a first one goes out
once the function is loaded. A process of its own, because a regular expression that never ends, or a crash
in somebody's C, can be ended there without the training.
"""

import ctypes
import importlib
import importlib.util
import json
import os
import random
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf_jax.evaluation import asking

Function = Callable[[Sequence[str], Sequence[str], Sequence[dict]], Any]  # prompts, responses, rows → floats

ATTEMPTS = 5  # at each batch of a server
KEY = "REWARD_API_KEY"  # of the environment: sent to servers as a bearer token, where it is set
DIES_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


class ScorerError(ValueError):
    """A reward that gives no numbers; the message is for people, and does not name the reward."""


def main(place: str, timeout: str) -> None:
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the function prints is for people
    ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    # A job that ends signals all its processes; the training, which still makes a step, needs this one.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))

    process = os.getpid()

    def reply(compute: Callable[[], dict[str, Any]]) -> None:
        try:
            told = compute()
        except ScorerError as error:
            told = {"error": str(error)}
        except BaseException as error:  # it is a person's program
            said = ": ".join(filter(None, [type(error).__name__, str(error)]))
            told = {"error": said + where(error, place)}
        if os.getpid() != process:  # a child that the function has forked, whose answer nobody asked for
            os._exit(1)
        print(json.dumps(told), file=replies, flush=True)

    def load() -> dict[str, Any]:
        functions.append(asking_server(place, float(timeout)) if is_address(place) else loaded(place))
        return {}

    functions: list[Function] = []  # none where it cannot be loaded, and then nobody asks
    reply(load)
    for line in requests:
        reply(lambda: {"values": values(functions[0], **json.loads(line))})  # noqa: B023 - called at once


def values(function: Function, seed: str, prompts: list, responses: list, rows: list) -> list[float]:
    """What the function gives, as floats. Chance is drawn from `seed`, so that a step repeats itself."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(zlib.crc32(seed.encode()))
    asked = len(responses)  # before the function, which may change the list
    found = function(prompts, responses, rows)
    unordered = isinstance(found, dict | set | frozenset)
    if unordered or isinstance(found, str | bytes) or not hasattr(found, "__iter__"):
        raise ScorerError(f"it gave {found!r:.80}, not a list of numbers")
    found = list(found if hasattr(found, "__len__") else islice(found, asked + 1))  # which may never end
    for value in found:
        if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
            raise ScorerError(f"it gave {value!r:.80} for a response, which is no number")
    return [float(value) for value in found]


def is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def loaded(place: str) -> Function:
    """The function that FILE.py:function or package.module:function names."""
    module, _, name = place.rpartition(":")
    path = Path(module).expanduser()
    found = _from_file(path) if path.suffix == ".py" else importlib.import_module(module)
    if not callable(getattr(found, name, None)):
        raise ScorerError(f"there is no function {name} in {module}")
    return getattr(found, name)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ScorerError(f"there is no file {path} here, in {Path.cwd()}")
    sys.path.insert(0, str(path.parent.resolve()))  # what lies beside it can be imported, as from a script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def where(error: BaseException, place: str) -> str:
    """The last line of the person's own file that led to the error; of a syntax error, the message tells."""
    frames = traceback.extract_tb(error.__traceback__)
    file = place.rpartition(":")[0]
    own = [frame for frame in frames if Path(frame.filename).name == Path(file).name]
    last = (own or frames)[-1]
    return f" ({Path(last.filename).name}, line {last.lineno})" if own else ""


def asking_server(address: str, timeout: float) -> Function:
    """A function that sends the batch to a server as JSON: {"prompts", "responses", "rows"}.

    The answer is a list of numbers, or an object with such a list under `rewards`.
    """

    def function(prompts, responses, rows):
        body = {"prompts": prompts, "responses": responses, "rows": rows}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = asking.post(address, body, timeout, os.environ.get(KEY, "").strip())
                return answer.get("rewards") if isinstance(answer, dict) else answer
            except asking.RefusedError as error:
                raise ScorerError(f"{error}: {error.said}") from None
            except asking.PassingError as error:
                if attempt == ATTEMPTS:
                    raise ScorerError(f"{error}; {attempt} attempts") from None
                seconds = min(asking.pause(attempt, error), asking.LONGEST_WAIT)
                told = f"attempt {attempt + 1} of {ATTEMPTS} in {seconds:,.1f} s"
                print(f"{address}: {error}; {told}", flush=True)
                time.sleep(seconds)
        raise AssertionError  # the last attempt returns or raises

    return function


if __name__ == "__main__":
    main(*sys.argv[1:])
