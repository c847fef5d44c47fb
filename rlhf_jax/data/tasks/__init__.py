"""The tasks that there are, one a file; rlhf_jax/data/task.py says what a task is."""
