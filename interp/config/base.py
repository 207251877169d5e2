"""Frozen dataclasses that check themselves, change by dotted paths, and travel as canonical JSON.

A `Record` reads its own annotations: the classes of a union, or those derived from a base, are told apart by a `kind`;
unknown keys are errors with a suggestion, whole numbers given for a float become floats (so that equal configs have
equal JSON), lists become tuples.
"""

import contextlib
import dataclasses
import json
import math
import numbers
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

from interp.config.schedule import AnyOf, Dense, Every, LogSpaced, Schedule, Steps, parse_schedule
from interp.errors import ConfigError, NotImportedError, did_you_mean

__all__ = ["Record", "added_field", "flat"]

SCHEMA_VERSION = 1
LONGEST_KIND = 200
"""Maximum number of characters of a user's `module:Name` in JSON."""


def added_field(default: Any) -> Any:
    """A field that a class of records gained after runs had been named: canonical JSON has it only if it is not its
    default, and JSON without it is read as the default. So old names stay, and old runs can be read.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Lamp(Record):
    ...     watts: float
    ...     dimmed: float = added_field(1.0)
    >>> Lamp(40).to_json(), Lamp(40, 0.5).to_json()
    ('{"kind":"Lamp","schema":1,"watts":40.0}', '{"dimmed":0.5,"kind":"Lamp","schema":1,"watts":40.0}')
    >>> Lamp.from_json('{"kind":"Lamp","schema":1,"watts":40.0}').dimmed
    1.0
    """
    return dataclasses.field(default=default, metadata={"added": True})


class Record:
    """Parent of frozen dataclasses: checks every field against its annotation, then the rules of the class."""

    offered: ClassVar[bool] = True
    """Whether errors offer the class as a choice; the description of a recorded run is none."""

    def __post_init__(self) -> None:
        for name, annotation in _annotations(type(self)).items():
            object.__setattr__(self, name, _conform(f"{type(self).__name__}.{name}", getattr(self, name), annotation))
        self._rules()

    def _rules(self) -> None:
        """Raise `ConfigError` where values break a rule that a type cannot say."""

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ConfigError(f"`{type(self).__name__}.{name}` must be {rule}; got {getattr(self, name)!r}.")

    def replace(self, overrides: Mapping[str, Any]) -> Self:
        """The config with some fields changed, named by dotted paths, as on the command line.

        Raises:
            ConfigError: for an unknown path (with a suggestion) or a value that breaks a rule.

        >>> from interp.config import RunConfig
        >>> RunConfig().replace({"task.p": 59, "save.weights": "every(5)"}).task.p
        59
        """
        config: Any = self
        tree: dict[str, Any] = {}
        for path, value in overrides.items():  # all changes of one dataclass are made at once, rules see the result
            *parents, name = path.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
                if not isinstance(node, dict):
                    raise ConfigError(
                        f"`{path}` cannot be changed: its parent is replaced as a whole in the same call."
                    )
            if isinstance(node.get(name), dict):
                raise ConfigError(f"`{path}` cannot be replaced as a whole: a part of it is changed in the same call.")
            node[name] = value
        return _replace(config, tree, "")

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON-ready values; every dataclass carries its `kind`."""
        return {"schema": SCHEMA_VERSION, **_encode(self)}

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: for unknown or missing keys, unknown kinds, another schema, or values that break a rule.
        """
        data = dict(data)
        schema = data.pop("schema", None)
        if schema != SCHEMA_VERSION:
            raise ConfigError(f"`schema` of a config must be {SCHEMA_VERSION}; got {schema!r}.")
        return _decode(data, cls, "config")

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"A config must be JSON; {error}.") from error
        if not isinstance(data, dict):
            raise ConfigError(f"A config must be a JSON object; got {type(data).__name__}.")
        return cls.from_dict(data)


_SCHEDULES = (Every, LogSpaced, Steps, Dense, AnyOf)


def _annotations(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _conform(name: str, value: Any, annotation: Any) -> Any:
    """`value`, with whole numbers made floats and lists tuples where the annotation says so; or a `ConfigError`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(value, type) and issubclass(value, Record):
        raise ConfigError(f"`{name}` must be a value; got the class {value.__name__}: write {value.__name__}().")
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"`{name}` must be one of {', '.join(map(str, arguments))}; got {value!r}.")
        return value
    if origin is tuple:
        if not isinstance(value, tuple | list) or (arguments[-1] is not Ellipsis and len(value) != len(arguments)):
            raise ConfigError(f"`{name}` must be a list of {_describe(annotation)}; got {value!r}.")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_conform(name, item, kind) for item, kind in zip(value, kinds))
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not type(None)]
        if len(kinds) == 1:
            return _conform(name, value, kinds[0])
        if isinstance(value, tuple(kinds)):
            return value
        raise ConfigError(f"`{name}` must be one of {_offered(kinds)}; got {value!r}.")
    if _is_base(annotation) and not isinstance(value, annotation):
        raise ConfigError(f"`{name}` must be one of {_offered(_kinds(annotation))}; got {value!r}.")
    if annotation is Schedule and isinstance(value, str):
        return parse_schedule(value)
    if not isinstance(annotation, type) or not issubclass(annotation, int | float | str | Schedule | Record):
        raise ConfigError(
            f"`{name}` must be annotated as a value that a config can hold: int, float, str, bool, Literal, a tuple of "
            f"these, or a frozen dataclass derived from Record; got {annotation}."
        )
    if annotation is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)  # numpy's, too
    if annotation is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # a whole number beyond every float is refused below
            value = float(value)
    if not isinstance(value, annotation) or (annotation is int and isinstance(value, bool)):
        raise ConfigError(f"`{name}` must be {_describe(annotation)}; got {value!r}.")
    if isinstance(value, Record) and not _is_record(type(value)):
        raise ConfigError(
            f"`{name}` must be a frozen dataclass: put @dataclass(frozen=True, kw_only=True) in front of "
            f"`class {type(value).__name__}`."
        )
    if annotation is float and not math.isfinite(value):
        raise ConfigError(f"`{name}` must be finite; got {value!r}.")
    return value


def _describe(annotation: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Schedule: "a schedule"}
    if typing.get_origin(annotation) is tuple:
        return " and ".join(_describe(kind) for kind in typing.get_args(annotation) if kind is not Ellipsis)
    return names.get(annotation, f"a {getattr(annotation, '__name__', annotation)}")


def _replace(config: Any, tree: Mapping[str, Any], path: str) -> Any:
    names = {f.name for f in dataclasses.fields(config)}
    changes = {}
    for name, value in tree.items():
        here = f"{path}{name}"
        if name not in names:
            raise ConfigError(f"There is no field `{here}` in {type(config).__name__}. {did_you_mean(name, names)}")
        child = getattr(config, name)
        if isinstance(value, dict):
            if not dataclasses.is_dataclass(child) or isinstance(child, Schedule):
                raise ConfigError(f"`{here}` has no fields of its own; got `{here}.{next(iter(value))}`.")
            value = _replace(child, value, f"{here}.")
        changes[name] = value
    return dataclasses.replace(config, **changes)


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {
            f.name: _encode(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not ("added" in f.metadata and getattr(value, f.name) == f.default)
        }
        return {"kind": _kind_of(type(value)), **fields}
    return [_encode(item) for item in value] if isinstance(value, tuple) else value


def _decode(data: Any, annotation: Any, path: str) -> Any:
    if not isinstance(data, dict):
        if isinstance(data, list):
            return tuple(_decode(item, Schedule if isinstance(item, dict) else None, path) for item in data)
        return data
    kinds = {_kind_of(kind): kind for kind in _kinds(annotation)}
    if not kinds:
        raise ConfigError(f"`{path}` must not be a JSON object; got {data!r}.")
    data = dict(data)
    kind = data.pop("kind", None)
    if isinstance(kind, str) and ":" in kind and _is_base(annotation):
        cls = _imported(kind, annotation, path)
    elif isinstance(kind, str) and kind in kinds:
        cls = kinds[kind]
    else:
        raise ConfigError(f"`{path}.kind` must be one of {_offered(kinds.values())}; got {kind!r}.")
    annotations = _annotations(cls)
    for name in data:
        if name not in annotations:
            raise ConfigError(f"`{path}.{name}` is no field of {kind}. {did_you_mean(name, annotations)}")
    came_later = {f.name for f in dataclasses.fields(cls) if "added" in f.metadata}
    if missing := annotations.keys() - data.keys() - came_later:
        raise ConfigError(f"`{path}` lacks the field(s) {', '.join(sorted(missing))} of {kind}.")
    return cls(**{name: _decode(data[name], annotations[name], f"{path}.{name}") for name in data})


def _kinds(annotation: Any) -> tuple[type, ...]:
    if annotation is Schedule:
        return _SCHEDULES
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(k for k in typing.get_args(annotation) if isinstance(k, type) and issubclass(k, Record))
    if _is_base(annotation):
        return tuple(
            cls for cls in _subclasses(annotation) if _is_own(cls) and _is_record(cls) and cls.__name__[0] != "_"
        )
    return (annotation,) if isinstance(annotation, type) and issubclass(annotation, Record) else ()


def _offered(kinds: Iterable[type]) -> str:
    """Names of the classes among which a user chooses."""
    return ", ".join(kind.__name__ for kind in kinds if not issubclass(kind, Record) or kind.offered)


def _is_base(annotation: Any) -> bool:
    """Whether any class derived from this one will do: a parent of records that is no dataclass itself."""
    return isinstance(annotation, type) and issubclass(annotation, Record) and not _is_record(annotation)


def _is_record(cls: type) -> bool:
    """Whether `cls` itself, not only a parent, is a frozen dataclass."""
    return "__dataclass_fields__" in vars(cls) and vars(cls)["__dataclass_params__"].frozen


def _is_own(cls: type) -> bool:
    """Whether a class is one of this subpackage; others are named by their modules, as users' are."""
    return cls.__module__.startswith(f"{__package__}.")


def _subclasses(cls: type) -> Iterator[type]:
    derived: type
    for derived in cls.__subclasses__():
        yield derived
        yield from _subclasses(derived)


def _kind_of(cls: type) -> str:
    """Name of a class in JSON: for one of this package its own, for a user's `module:Name`.

    Raises:
        ConfigError: the class could not be found again by that name.
    """
    if _is_own(cls):
        return cls.__name__
    module = cls.__module__.replace("__mp_main__", "__main__")  # the script, in a process that it has spawned
    if getattr(sys.modules.get(module), cls.__qualname__, None) is not cls:
        raise ConfigError(
            f"`{cls.__qualname__}` must be defined at the top level of a module, under its own name: a run's config "
            f"names it as {module}:{cls.__name__}."
        )
    return f"{module}:{cls.__name__}"


def _imported(kind: str, base: type, path: str) -> type:
    """The user's class that is called `module:Name` in JSON. Never imports: a file's words do not run code.

    Raises:
        NotImportedError: its module has not been imported.
        ConfigError: the module has no such class.
    """
    module, _, name = kind.partition(":")
    if not kind.isprintable() or len(kind) > LONGEST_KIND:
        raise ConfigError(f"`{path}.kind` must be `module:Name`, printable and short; got {kind[:40]!r}.")
    if module not in sys.modules:
        raise NotImportedError(
            f"`{path}.kind` is {kind}, of a module that is not imported, and a stored config never imports one. "
            f"Write `import {module}` first, or `interp --import {module} ...` on the command line.",
            module,
        )
    cls = vars(sys.modules[module]).get(name)  # getattr would call a lazy module's `__getattr__`, which may import
    if cls is None and module == "__main__":
        raise NotImportedError(
            f"`{path}.kind` is {kind}, a class of the script that trained the run, and this process runs another. Put "
            "the class into a module of its own, import it in both, and train the run again."
        )
    if not isinstance(cls, type) or not issubclass(cls, base) or not _is_record(cls):
        raise ConfigError(
            f"`{path}.kind` {kind} must name a frozen dataclass derived from {base.__name__}; "
            f"`{module}` has {'no `' + name + '`' if cls is None else repr(cls)}."
        )
    return cls


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted names.

    >>> flat({"task": {"p": 59}, "seed": 0})
    {'task.p': 59, 'seed': 0}
    """
    rows: dict[str, Any] = {}
    for name, value in tree.items():
        rows |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return rows
