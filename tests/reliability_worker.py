"""A run of three stages that goes slowly and tells its steps: `python reliability_worker.py ARGUMENTS…`.

The arguments are those of rlhf-jax run. Every step is a line in the file that STEPS names.
"""

import os
import sys
import time

import compiling

os.environ["JAX_PLATFORMS"] = "cpu"
compiling.compile_fast()

from rlhf_jax import main  # noqa: E402
from rlhf_jax.pipeline import stages  # noqa: E402
from rlhf_jax.training import loop  # noqa: E402
from rlhf_jax.training.metrics import MetricsLog  # noqa: E402

STEP_SECONDS = 0.05  # so that a save is shorter than the steps between two


class Telling(MetricsLog):
    def __init__(self, workdir, stage, start, *rest):
        super().__init__(workdir, stage, start, *rest)
        self.stage = stage

    def log(self, step, *scalars, **read):
        super().log(step, *scalars, **read)
        with open(os.environ["STEPS"], "a") as file:
            file.write(f"{self.stage} {step}\n")
        time.sleep(STEP_SECONDS)


loop.MetricsLog = Telling
stages.STAGES = [stage for stage in stages.STAGES if stage.name != "eval"]
sys.exit(main.main(["rlhf-jax run", *sys.argv[1:]]))
