"""Does a run fit a machine that is not there? Every stage's own program, compiled and not run."""
