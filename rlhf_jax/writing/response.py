"""One response while it is written: its tokens, the text that they are, and why it ended.

A text that is shown while it grows must never be taken back. So the end of it is held back as long as it may
still change: half a character, what may become a stop string, and whitespace where a text is told without.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix

import numpy as np

from rlhf_jax.data.tokenizer import UNFINISHED, Tokenizer

STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"  # why a response ended


@dataclass(frozen=True)
class Sampling:
    """How a response is drawn."""

    max_tokens: int  # the one that ends it among them
    temperature: float = 0.0  # 0: the most likely token each time
    stop: tuple[str, ...] = ()  # texts before which it ends
    strip: bool = True  # tell it without the whitespace around it


def row_seed(seed: int, *place: int) -> int:
    """A seed of 32 bits for a response, of the user's seed and the response's place, all at least 0."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])


class Response:
    """What becomes of one prompt. `text` is what can be told of it so far, all of it once it has `finish`."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, seed: int):
        self.prompt, self.sampling, self.seed = prompt, sampling, seed
        self.ids: list[int] = []  # through the one that ends it
        self.logprobs: list[float] = []  # nats
        self.text, self.finish = "", ""

    def cancel(self) -> None:
        """Nobody wants it any more: no further token is drawn."""
        self.finish = self.finish or CANCELLED

    def add(
        self, ids: Sequence[int], logprobs: Sequence[float], tokenizer: Tokenizer, ends: Sequence[int]
    ) -> None:
        """Takes the next tokens; what lies behind the end of the response is dropped."""
        finish = ""
        for token, logprob in zip(ids, logprobs, strict=True):
            self.ids.append(int(token))
            self.logprobs.append(float(logprob))
            if token in ends:
                finish = STOP
            elif len(self.ids) == self.sampling.max_tokens:
                finish = LENGTH
            if finish:
                break
        text = tokenizer.decode(self.ids[:-1] if self.ids[-1] in ends else self.ids)
        found = [(at + len(stop), at) for stop in self.sampling.stop if (at := text.find(stop)) >= 0]
        if found:  # of several the one that was written first, so that it does not matter how the tokens fall
            text, finish = text[: min(found)[1]], STOP
        elif not finish:
            text = self._settled(text)
        self.text = text.strip() if self.sampling.strip else text
        self.finish = self.finish or finish  # last: another thread that reads it finds the text whole

    def _settled(self, text: str) -> str:
        """The beginning of an unfinished text that stays whatever follows."""
        text = text.rstrip(UNFINISHED)
        held = (n for stop in self.sampling.stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return text[: len(text) - max(held, default=0)]

    def tokens(self, tokenizer: Tokenizer) -> list[str]:
        """The text of each token; together they are what decodes from all. Half a character is the next's."""
        so_far = [tokenizer.decode(self.ids[:end]).rstrip(UNFINISHED) for end in range(len(self.ids) + 1)]
        so_far[-1] = tokenizer.decode(self.ids)
        return [
            after[len(commonprefix([before, after])) :]
            for before, after in zip(so_far[:-1], so_far[1:], strict=True)
        ]
