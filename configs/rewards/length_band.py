"""0 for a response of FEWEST to MOST words, less outside of them: --config.ppo.reward=THIS_FILE:length_band

A response loses a tenth for each word that it has too few or too many, down to -1: a slope, on which a policy
that is far from the band still learns which way it lies.
"""

FEWEST, MOST = 12, 16  # words


def length_band(prompts, responses, rows):
    words = [len(response.split()) for response in responses]
    outside = [max(FEWEST - count, count - MOST, 0) for count in words]
    return [max(-0.1 * distance, -1.0) for distance in outside]
