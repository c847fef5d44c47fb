"""1 where a response gives the answer of its row, else 0: --config.ppo.reward=THIS_FILE:exact_answer

The answer stands in the row's field `answer`; where there is none, in its reference. A response gives what
stands behind its last "Answer:", or its last line. Case, spaces, a full stop and the commas of 1,000 do not
count.
"""

import re


def normalized(text):
    return re.sub(r"(?<=\d),(?=\d)|\.$", "", " ".join(str(text).casefold().split())).strip()


def given(response):
    return re.split(r"(?i)answer:", response.strip())[-1].strip().split("\n")[-1]


def exact_answer(prompts, responses, rows):
    answers = [row.get("answer", row["reference"]) for row in rows]
    return [
        float(normalized(given(response)) == normalized(answer))
        for response, answer in zip(responses, answers, strict=True)
    ]
