"""A `config.json` of the transformers library, read with errors for people."""

from collections.abc import Collection
from typing import Any

from rlhf_jax.config import ConfigError, RotaryConfig
from rlhf_jax.validation import check_rotary

LARGEST = 1e15  # of any number in the file
ORIGINAL = "original_max_position_embeddings"
FACTORS = "short_factor", "long_factor"  # of longrope

# What a `config.json` calls the ways of stretching; dynamic is plain within the context it was trained at.
SCALINGS = {name: name for name in ("linear", "llama3", "yarn", "longrope")}
SCALINGS |= {"default": "plain", "dynamic": "plain"}


class HfConfig:
    """The fields of a `config.json`, read with errors that name file and field."""

    def __init__(self, fields: dict[str, Any], file: object):
        self._fields, self.file = fields, file

    @property
    def names(self) -> Collection[str]:
        return self._fields.keys()

    def get(self, name: str, kind: Any, default: Any = None, null: Any = None, zero: bool = False) -> Any:
        """A field of type `kind`; absent gives `default`, and is an error without one.

        So does null, unless there is a value `null`. Numbers are positive, or with `zero` at least 0.
        """
        value = self._fields.get(name)
        if value is None:
            if null is not None and name in self._fields:
                return null
            if default is None:
                raise ConfigError(f"{self.file}: field {name} is missing")
            return default
        if type(value) is not kind and not (kind is float and type(value) is int):
            wanted = "an object" if kind is dict else f"of type {kind.__name__}"
            raise ConfigError(f"{self.file}: field {name} is {value!r}, it should be {wanted}")
        if kind in (int, float) and not (0 < value < LARGEST or (zero and value == 0)):
            low = "0 or more" if zero else "positive"
            wanted = low if value <= 0 else f"below {LARGEST:g}"
            raise ConfigError(f"{self.file}: field {name} is {value!r}, it should be {wanted}")
        return kind(value)

    def list_of(self, name: str, choices: Collection, length: int, longer: bool = False) -> list:
        """A list of so many of `choices`, or of more if it may be `longer`; empty where there is none."""
        values = self.get(name, list, [])
        if values and (len(values) < length or (len(values) > length and not longer)):
            raise ConfigError(f"{self.file}: {name} has {len(values)} entries for {length} layers")
        for value in values:
            if value not in choices:
                known = ", ".join(map(str, choices))
                raise ConfigError(f"{self.file}: {name} has {value!r}, which is not supported; {known} are")
        return values

    def positive_numbers(self, name: str) -> tuple[float, ...]:
        """A list of them, which must be there."""
        values = self.get(name, list)
        for i, value in enumerate(values):
            HfConfig({f"{name}[{i}]": value}, self.file).get(f"{name}[{i}]", float)
        return tuple(map(float, values))

    def choose(self, name: str, choices: dict[str, Any], default: str) -> Any:
        """What `choices` gives for a field; other values are not supported."""
        value = self.get(name, str, default)
        if value not in choices:
            raise ConfigError(f"{self.file}: {name} {value!r} is not supported; {', '.join(choices)} are")
        return choices[value]

    def refuse(self, **only: Any) -> None:
        """Fields that change the computation in ways we do not have: each may only have the value given."""
        for name, value in only.items():
            if self._fields.get(name, value) not in (value, None):
                known = "" if value is None else f", only {value!r}"
                raise ConfigError(f"{self.file}: {name} {self._fields[name]!r} is not supported{known}")

    def renamed(self, names: dict[str, str]) -> "HfConfig":
        """The same with some fields under other names, also where these are there too."""
        named = {names[name]: value for name, value in self._fields.items() if name in names}
        return HfConfig(self._fields | named, self.file)

    def changed(self, **fields: Any) -> "HfConfig":
        """The same with other values of some fields."""
        return HfConfig(self._fields | fields, self.file)

    def inner(self, name: str) -> "HfConfig":
        """The fields of an object within it, none where it is absent."""
        return HfConfig(self.get(name, dict, {}), f"{self.file}, {name}")

    def only_has(self, *names: str) -> None:
        """Raises ConfigError for a field of another name."""
        for name, value in self._fields.items():
            if name not in names:
                raise ConfigError(f"{self.file}: {name} {value!r} is not supported")

    def rotary(self, fraction: float = 1.0, base: float = 10_000.0) -> RotaryConfig:
        """Rotary positions in either spelling: `rope_parameters`, or `rope_scaling` beside other fields.

        Where both are there, transformers reads rope_scaling and nothing of the other.
        """
        place = "rope_scaling" if self._fields.get("rope_scaling") else "rope_parameters"
        inner = self.inner(place)
        inner.refuse(mscale=None, mscale_all_dim=None, truncate=True, short_mscale=None, long_mscale=None)
        for name, value in inner._fields.items():
            if isinstance(value, dict) or (isinstance(value, list) and name not in FACTORS):
                # Sections of mrope, one rotary a layer type.
                raise ConfigError(f"{inner.file}: {name} {value!r} is not supported")
        name = "type" if inner._fields.get("rope_type") is None else "rope_type"
        scaling = inner.choose(name, SCALINGS, "default")
        rotary = RotaryConfig(
            fraction=inner.get("partial_rotary_factor", float, fraction),
            base=inner.get("rope_theta", float, base),
            scaling=scaling,
        )
        if rotary.fraction > 1:
            raise ConfigError(
                f"{self.file}: the share of dimensions that rotate is {rotary.fraction}, above 1"
            )
        if scaling == "plain":
            return rotary
        context = self.get("max_position_embeddings", int)
        if scaling != "linear":  # beside the others it goes before the one within
            rotary.original_context = self.get(ORIGINAL, int, inner.get(ORIGINAL, int, context))
        longer = context / rotary.original_context if scaling == "longrope" else None
        rotary.factor = inner.get("factor", float, longer)
        if scaling == "longrope":
            rotary.short_factors, rotary.long_factors = map(inner.positive_numbers, FACTORS)
            rotary.attention_factor = inner.get("attention_factor", float, 0.0)
        if scaling == "llama3":
            rotary.low_frequency = inner.get("low_freq_factor", float)
            rotary.high_frequency = inner.get("high_freq_factor", float)
        if scaling == "yarn":
            rotary.beta_fast = inner.get("beta_fast", float, 32.0)
            rotary.beta_slow = inner.get("beta_slow", float, 1.0)
            rotary.attention_factor = inner.get("attention_factor", float, 0.0)
        check_rotary(rotary, f"{self.file}, {place}")
        return rotary


def rotary_fields(rotary: RotaryConfig) -> dict[str, Any]:
    """What `HfConfig.rotary` reads, in both spellings."""
    fields: dict[str, Any] = {"rope_theta": rotary.base, "partial_rotary_factor": rotary.fraction}
    if rotary.scaling == "plain":
        return {"rope_parameters": fields | {"rope_type": "default"}, "rope_scaling": None}
    fields |= {"rope_type": rotary.scaling, "factor": rotary.factor}
    if rotary.scaling != "linear":
        fields[ORIGINAL] = rotary.original_context
    if rotary.scaling == "llama3":
        fields |= {"low_freq_factor": rotary.low_frequency, "high_freq_factor": rotary.high_frequency}
    if rotary.scaling == "yarn":
        fields |= {"beta_fast": rotary.beta_fast, "beta_slow": rotary.beta_slow}
    if rotary.scaling in ("yarn", "longrope") and rotary.attention_factor:
        fields["attention_factor"] = rotary.attention_factor
    both = {"rope_parameters": fields, "rope_scaling": fields}
    if rotary.scaling != "longrope":
        return both
    fields |= dict(zip(FACTORS, map(list, (rotary.short_factors, rotary.long_factors)), strict=True))
    longest = round(rotary.original_context * rotary.factor)
    return both | {"max_position_embeddings": longest, ORIGINAL: rotary.original_context}
