"""What goes on around a training step: state, loop, metrics, health, stopping."""
