"""What no single field of a `config.json` says: rotary positions, kinds of layers, scales and caps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rlhf_jax.config import ConfigError, ModelConfig
from rlhf_jax.model.hf_config import ORIGINAL, HfConfig, rotary_fields

FULL, SLIDING = "full_attention", "sliding_attention"  # of layer_types
KINDS = {FULL: "global", SLIDING: "local"}
WINDOW = 4096  # of every family whose file leaves sliding_window out


class Part(NamedTuple):
    """Fields of ModelConfig that `read` takes from a file with so many layers, and `write` puts there."""

    read: Callable[[HfConfig, int], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]


# Rotary positions ----------------------------------------------------------------------------


def _neox_rotary(c: HfConfig, layers: int) -> dict[str, Any]:
    # transformers takes head_dim for the rotary dimensions alone, and not for the heads.
    c.refuse(head_dim=c.get("hidden_size", int, 6144) // c.get("num_attention_heads", int, 64))
    return {"rotary": c.rotary(c.get("rotary_pct", float, 0.25), c.get("rotary_emb_base", float, 10_000.0))}


def _neox_rotary_fields(model: ModelConfig) -> dict[str, Any]:
    rotary = model.rotary
    return {"rotary_pct": rotary.fraction, "rotary_emb_base": rotary.base, **rotary_fields(rotary)}


NEOX_ROTARY = Part(_neox_rotary, _neox_rotary_fields)


def whole_rotary(base: float = 10_000.0) -> Part:
    """All dimensions of a head turn; `base` is that of files that name none."""

    def read(c: HfConfig, layers: int) -> dict[str, Any]:
        rotary = c.rotary(base=c.get("rope_theta", float, base))
        if rotary.fraction != 1:
            raise ConfigError(f"{c.file}: partial_rotary_factor {rotary.fraction} is not supported, only 1.0")
        return {"rotary": rotary}

    return Part(read, lambda model: {"rope_theta": model.rotary.base, **rotary_fields(model.rotary)})


def _partial_rotary(c: HfConfig, layers: int) -> dict[str, Any]:
    fraction = c.get("partial_rotary_factor", float, 1.0)
    rotary = c.rotary(fraction, c.get("rope_theta", float, 10_000.0))
    if rotary.scaling not in ("plain", "longrope"):  # which transformers takes for longrope, or refuses
        raise ConfigError(f"{c.file}: rope_type {rotary.scaling!r} is not supported in this family")
    return {"rotary": rotary}


def _partial_rotary_fields(model: ModelConfig) -> dict[str, Any]:
    rotary = model.rotary
    plain = {"rope_theta": rotary.base, "partial_rotary_factor": rotary.fraction}
    return plain | rotary_fields(rotary)


PARTIAL_ROTARY = Part(_partial_rotary, _partial_rotary_fields)


def _two_rotaries(c: HfConfig, layers: int) -> dict[str, Any]:
    """Gemma 3: global layers may be stretched, and local ones have a base of their own.

    Newer files have both in `rope_parameters`; what rope_scaling says goes before. The original context is
    read within them alone.
    """
    both = c.inner("rope_parameters")
    both.only_has(FULL, SLIDING)
    local = both.inner(SLIDING)
    local.refuse(rope_type="default", factor=None, partial_rotary_factor=1.0)
    local_base = local.get("rope_theta", float, c.get("rope_local_base_freq", float, 10_000.0))
    scaling = c.get("rope_scaling", dict, {})
    if scaling.get("rope_type") is None and scaling.get("type") is not None:
        raise ConfigError(
            f"{c.file}, rope_scaling: transformers does not read type in this family: name it rope_type"
        )
    stretched = c.changed(
        rope_parameters=both.get(FULL, dict, {}) | scaling, rope_scaling=None, **{ORIGINAL: None}
    )
    rotary = stretched.rotary(base=c.get("rope_theta", float, 1e6))
    if rotary.fraction != 1:
        raise ConfigError(f"{c.file}: partial_rotary_factor {rotary.fraction} is not supported, only 1.0")
    if rotary.scaling == "longrope":
        raise ConfigError(f"{c.file}: rope_type 'longrope' is not supported in this family")
    rotary.local_base = local_base
    return {"rotary": rotary}


def _two_rotaries_fields(model: ModelConfig) -> dict[str, Any]:
    rotary = model.rotary
    fields = rotary_fields(rotary)
    local = {"rope_type": "default", "rope_theta": rotary.local_base}
    return {
        "rope_theta": rotary.base,
        "rope_local_base_freq": rotary.local_base,
        "rope_parameters": {FULL: fields["rope_parameters"], SLIDING: local},
        "rope_scaling": fields["rope_scaling"],
    }


TWO_ROTARIES = Part(_two_rotaries, _two_rotaries_fields)

# Kinds of layers -----------------------------------------------------------------------------


def shortest_period(kinds: Sequence[str]) -> tuple[str, ...]:
    """The shortest beginning of `kinds` that, repeated, gives all of them."""
    lengths = range(1, len(kinds) + 1)
    period = next(n for n in lengths if all(kind == kinds[i % n] for i, kind in enumerate(kinds)))
    return tuple(kinds[:period])


def _typed(c: HfConfig, types: Sequence[str], window: int) -> dict[str, Any]:
    """The pattern of layers of these types, or of those that the file has in `layer_types`."""
    types = c.list_of("layer_types", KINDS, len(types)) or types
    kinds = [KINDS[name] for name in types]
    if "local" in kinds and not window:
        raise ConfigError(f"{c.file}: layers of type {SLIDING} have no sliding_window")
    return {"layer_pattern": shortest_period(kinds), "window": window if "local" in kinds else 0}


def _types(model: ModelConfig) -> list[str]:
    return [SLIDING if kind == "local" else FULL for kind in model.layer_kinds]


def one_window(default: int) -> Part:
    """All layers have the window `sliding_window`, or none has; `default` is that of files without it."""

    def read(c: HfConfig, layers: int) -> dict[str, Any]:
        window = c.get("sliding_window", int, default, null=0)
        return {"layer_pattern": ("local",) if window else ("global",), "window": window}

    return Part(read, lambda model: {"sliding_window": model.window or None})


def _late_windows(c: HfConfig, layers: int) -> dict[str, Any]:
    """Qwen: layers have windows from the `max_window_layers`th on, if at all, unless their types are told."""
    window = c.get("sliding_window", int, WINDOW, null=0) if c.get("use_sliding_window", bool, False) else 0
    first = c.get("max_window_layers", int, 28, zero=True)
    types = [SLIDING if window and i >= first else FULL for i in range(layers)]
    return _typed(c, types, window)


def _late_windows_fields(model: ModelConfig) -> dict[str, Any]:
    types = _types(model)
    return {
        "use_sliding_window": SLIDING in types,
        "sliding_window": model.window or None,
        "max_window_layers": types.index(SLIDING) if SLIDING in types else model.layers,
        "layer_types": types,
    }


LATE_WINDOWS = Part(_late_windows, _late_windows_fields)


def alternating(period: int) -> Part:
    """Gemma: local layers and, each so many layers, a global one, unless their types are told."""

    def read(c: HfConfig, layers: int) -> dict[str, Any]:
        every = c.get("sliding_window_pattern", int, period)
        types = [SLIDING if (i + 1) % every else FULL for i in range(layers)]
        return _typed(c, types, c.get("sliding_window", int, WINDOW, null=0))

    def write(model: ModelConfig) -> dict[str, Any]:
        return {"sliding_window": model.window or None, "layer_types": _types(model)}

    return Part(read, write)


def _without_rotary(c: HfConfig, layers: int) -> dict[str, Any]:
    """SmolLM3: layers with 0 in `no_rope_layers`, or every fourth one, have no rotary positions."""
    c.refuse(use_sliding_window=False, layer_types=[FULL] * layers)
    every = c.get("no_rope_layer_interval", int, 4)
    turns = c.list_of("no_rope_layers", (0, 1), layers, longer=True)
    turns = turns[:layers] if turns else [(i + 1) % every for i in range(layers)]
    return {"layer_pattern": shortest_period(["global" if turn else "nope" for turn in turns])}


def _without_rotary_fields(model: ModelConfig) -> dict[str, Any]:
    turns = [int(kind != "nope") for kind in model.layer_kinds]
    return {
        "no_rope_layers": turns,
        "use_sliding_window": False,
        "sliding_window": None,
        "layer_types": [FULL] * model.layers,
    }


WITHOUT_ROTARY = Part(_without_rotary, _without_rotary_fields)

# Scales and caps -----------------------------------------------------------------------------


def _scaled(c: HfConfig, layers: int) -> dict[str, Any]:
    """Gemma: embeddings times √width, scores divided by the root of `query_pre_attn_scalar`."""
    width = c.get("hidden_size", int, 2304)
    scalar = c.get("query_pre_attn_scalar", int, 256)
    return {"embedding_scale": width**0.5, "attention_scale": scalar**-0.5}


def _scaled_fields(model: ModelConfig) -> dict[str, Any]:
    scale = model.attention_scale or model.head_dimension**-0.5
    return {"query_pre_attn_scalar": round(scale**-2)}


SCALED = Part(_scaled, _scaled_fields)


def caps(attention: float, logits: float) -> Part:
    """Soft caps of scores and logits, with their values in files that do not have them; 0: none."""

    def read(c: HfConfig, layers: int) -> dict[str, Any]:
        return {
            "attention_cap": c.get("attn_logit_softcapping", float, attention, null=0.0),
            "logit_cap": c.get("final_logit_softcapping", float, logits, null=0.0),
        }

    def write(model: ModelConfig) -> dict[str, Any]:
        return {
            "attn_logit_softcapping": model.attention_cap or None,
            "final_logit_softcapping": model.logit_cap or None,
        }

    return Part(read, write)
