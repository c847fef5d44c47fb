"""Posts, comparisons, tokens and batches as plain records and NumPy arrays; never imports jax."""
