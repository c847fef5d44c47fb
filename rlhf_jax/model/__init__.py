"""The transformer: parameters declared beside the pure functions that use them."""
