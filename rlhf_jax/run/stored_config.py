"""A configuration as a run's config.json holds it: plain values, read again and compared with another."""

import dataclasses
import typing
from typing import Any

from rlhf_jax.config import PLACEMENT, Config, ConfigError


def differences(ours: Config, theirs: dict) -> list[str]:
    """Lines 'field: there → here' for every leaf in which a stored configuration differs.

    Those of PLACEMENT may: a run resumes on another mesh.
    """
    stored = stored_fields(theirs)
    current = flatten(to_dict(ours))
    return [
        f"{name}: {stored.get(name, 'absent')} → {current.get(name, 'absent')}"
        for name in sorted((stored.keys() | current.keys()) - PLACEMENT)
        if stored.get(name, "absent") != current.get(name, "absent")
    ]


def stored_fields(tree: dict) -> dict[str, Any]:
    """Dotted name → value of a stored configuration; what an older version did not have is its default."""
    return flatten(to_dict(Config())) | flatten(upgraded(tree))


def to_dict(config) -> dict:
    """Nested plain values, as JSON holds them."""
    return dataclasses.asdict(config, dict_factory=lambda pairs: {name: _plain(x) for name, x in pairs})


def from_dict(tree: dict, cls: type = Config, prefix: str = ""):
    """The configuration that `to_dict` gave. Raises `ConfigError` for a field that does not exist."""
    hints = typing.get_type_hints(cls)
    for name in sorted(tree.keys() - hints.keys()):
        raise ConfigError(f"{prefix}{name}: no such field")
    values = {}
    for name, value in tree.items():
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise ConfigError(f"{prefix}{name}: {value!r} should be an object")
            value = from_dict(value, hints[name], f"{prefix}{name}.")
        values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def upgraded(tree: dict) -> dict:
    """A stored configuration in the fields of today: a gated MLP was once an activation of its own."""
    model = tree.get("model")
    if not isinstance(model, dict) or model.get("activation") != "silu_gated":
        return tree
    return tree | {"model": model | {"activation": "silu", "gated": True}}


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves
