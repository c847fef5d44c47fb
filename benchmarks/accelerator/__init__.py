"""Measurements on one accelerator, in parts of four minutes at most: machines are lent by the quarter hour.

python -m benchmarks.accelerator.correct --out=FOLDER    kernels, decoding, PPO, checkpoints, memory
python -m benchmarks.accelerator.product --out=FOLDER    the demo; a model of 135M with prompts of real length
python -m benchmarks.accelerator.ladder --out=FOLDER     the miniature's bases, all sizes at once
python -m benchmarks.accelerator.speed --out=FOLDER      tokens a second and utilisation at 160M, 1B and 2.8B
python -m benchmarks.accelerator.page FOLDER --out=docs/accelerators.md

--dry         the same code at toy size, on a CPU
--seconds=N   after which nothing more is begun; the rest is noted as not reached

A part writes FOLDER/PART.json again after every measurement. Where there is no network, what the machine
lacks travels as wheels:

pip wheel --no-deps --wheel-dir=.whl -r benchmarks/accelerator/requirements.txt      # with a network
pip install --no-index --no-deps --target=site .whl/*.whl && export PYTHONPATH=site  # without
"""
