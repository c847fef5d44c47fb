"""1 where a whole response has a form, 0 where it has not: --config.ppo.reward=THIS_FILE:regular_expression

The form below is one sentence, which begins with a word and ends with a full stop. Put your own in its place.
One that can match the same text in many ways, such as (a+)+, may take for ever: ppo.reward_timeout ends the
run then.
"""

import re

FORM = re.compile(r"\w[^.!?\n]*\.")


def regular_expression(prompts, responses, rows):
    return [float(FORM.fullmatch(response) is not None) for response in responses]
