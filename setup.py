"""What pyproject.toml cannot say: configs/, which stands beside the package, is installed inside it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["rlhf_jax*"]), "rlhf_jax.configs", "rlhf_jax.configs.rewards"],
    package_dir={"rlhf_jax.configs": "configs", "rlhf_jax.configs.rewards": "configs/rewards"},
)
