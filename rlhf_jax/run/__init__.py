"""A run on disk and among hosts: its folder, checkpoints, storage, processes."""
