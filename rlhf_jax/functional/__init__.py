"""Mathematics on arrays: log-probabilities, rewards, advantages, losses.

Pure functions in float32, usable under jit and on sharded arrays: the batch axis may be
split over devices, and every mean or variance over it is that of the whole batch.
"""
