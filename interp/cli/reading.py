"""Parsing: a command from the words of a command line, or one line about what is wrong with them, and exit code 2.

tyro turns the fields of a command into flags; the flags of `interp train RECIPE` are the fields of the recipe's config.
"""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from interp.cli.commands import COMMANDS, Train
from interp.cli.modules import import_module
from interp.config import SGD, Adam, AdamW, Muon, RunConfig, recipes
from interp.config.schedule import Schedule, parse_schedule
from interp.errors import ConfigError, UnknownNameError, did_you_mean

__all__ = ["import_modules", "parse"]

_ABOUT = (
    "Train small networks, store every step of how they grok, and look inside. "
    "Start with `interp demo`; `interp COMMAND --help` explains a command, `interp --version` names this version; "
    "`--import MODULE` imports a module of your own, whose task or model a run is made of."
)
_TRAIN = (
    "Train this recipe and store its trajectory. Every field of its config is a flag below; `--optimizer "
    "adamw|adam|sgd|muon` takes another kind of optimiser, with the learning rate and weight decay of that kind."
)
_REWRITES = (
    (r"Error parsing (--\S+): invalid literal for int\(\) with base 10: ", r"`\1` must be a whole number; got "),
    (r"Error parsing (--\S+): could not convert string to float: ", r"`\1` must be a number; got "),
    (
        r"Error parsing (--\S+): no type matching \S*INT could be .*? \['(.*?)'\]\..*",
        r"`\1` must be a whole number; got '\2'.",
    ),
    (r"Error parsing (--\S+): Could not find valid parse for arguments: \[(.*?)\]", r"`\1` cannot take \2"),
    (r"Missing value for argument '(--\S+)'\. Expected 1 values", r"`\1` needs a value"),
)
"""Errors of tyro that quote Python, as patterns, and plain ones in their place."""


def import_modules(words: list[str]) -> list[str]:
    """Import the modules that `--import` names, anywhere among the words, and return the other words.

    They hold the user's own tasks and models that stored runs name. The current folder is searched as well, as with
    `python -m`.

    Raises:
        ConfigError: a module cannot be imported.

    >>> import_modules(["--import", "json", "list", "--import=math"])
    ['list']
    """
    left, modules = [], []
    following = iter(words)
    for word in following:
        name, equals, module = word.partition("=")
        if name == "--import":
            modules.append(module if equals else next(following, ""))
        else:
            left.append(word)
    for module in modules:
        import_module("--import", module)
    return left


def parse(words: list[str]) -> Any:
    """Command that the words describe; a wrong word ends the program with one line and exit code 2."""
    words = words or ["--help"]
    name = words[0]
    if name == "--version":
        return lambda: print(version("grokking-interp"))
    registry = _registry()
    if name == "train":
        return _parse_train(words[1:], registry)
    if name in COMMANDS:
        prog = f"interp {name}"
        return _read(prog, lambda: tyro.cli(COMMANDS[name], prog=prog, args=words[1:], registry=registry))
    if not name.startswith("-"):
        raise UnknownNameError(f"There is no command `{name}`. {did_you_mean(name, COMMANDS)}")
    summaries: dict[str, Callable[..., Any]] = {
        command: dataclasses.make_dataclass(cls.__name__, [], namespace={"__doc__": cls.__doc__.split("\n\n")[0]})
        for command, cls in COMMANDS.items()
    }
    return _read(
        "interp",
        lambda: tyro.extras.subcommand_cli_from_dict(summaries, prog="interp", description=_ABOUT, args=words),
    )


def _parse_train(words: list[str], registry: ConstructorRegistry) -> Train:
    if not words or words[0].startswith("-"):
        shown: dict[str, Callable[..., Any]] = {
            recipe: dataclasses.make_dataclass("Recipe", [], namespace={"__doc__": recipes.RECIPES[recipe].summary})
            for recipe in recipes.RECIPES
        }
        _read(
            "interp train",
            lambda: tyro.extras.subcommand_cli_from_dict(
                shown, prog="interp train", description=Train.__doc__, args=words or ["--help"]
            ),
        )
    config, changes = _with_optimizer(recipes.get(words[0]), words[1:])
    prog = f"interp train {words[0]}"
    return _read(
        prog,
        lambda: tyro.cli(
            Train, prog=prog, description=_TRAIN, args=changes, default=Train(config=config), registry=registry
        ),
    )


def _with_optimizer(config: RunConfig, words: list[str]) -> tuple[RunConfig, list[str]]:
    """Config with the optimiser that `--optimizer KIND` asks for, and the words without that flag.

    Fields that both kinds of optimiser have are kept, except learning rate and weight decay: these mean something else
    to each kind, and become the new kind's defaults.
    """
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--optimizer=") else [word])]
    if "--optimizer" not in words:
        return config, words
    at = words.index("--optimizer")
    kinds = {kind.__name__.lower(): kind for kind in (AdamW, Adam, SGD, Muon)}
    name = words[at + 1].lower() if at + 1 < len(words) else ""
    if name not in kinds:
        raise ConfigError(f"`--optimizer` must be one of {', '.join(kinds)}; got {name or 'nothing'}.")
    own = {field.name for field in dataclasses.fields(kinds[name])} - {"lr", "weight_decay"}
    shared = {f.name: getattr(config.optimizer, f.name) for f in dataclasses.fields(config.optimizer) if f.name in own}
    return config.replace({"optimizer": kinds[name](**shared)}), words[:at] + words[at + 2 :]


def _read(prog: str, parse: Callable[[], Any]) -> Any:
    """Result of a call of tyro; its box about a wrong word becomes one line."""
    boxes = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxes):
            return parse()
    except SystemExit as end:
        if end.code != 2:
            raise
        print(f"{prog}: {_out_of_the_box(boxes.getvalue())} See {prog} --help.", file=sys.stderr)
        raise


def _out_of_the_box(text: str) -> str:
    """Message and suggestions of an error of tyro's, without frame, help texts, colours and Python's own words.

    >>> rows = ["wrong x", "────", "Perhaps:", "    --y", "        (default: 1)"]
    >>> _out_of_the_box("\\n".join(["╭─ Title ─╮", *(f"│ {row} │" for row in rows), "╰─────────╯"]))
    'wrong x. Perhaps: --y.'
    >>> _out_of_the_box("Parsing error\\n────\\n  Error parsing --n: invalid literal for int() with base 10: 'x'")
    "`--n` must be a whole number; got 'x'."
    """
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    # a terminal without UTF-8 gets the title, a rule and rows that are indented by two
    rows = [line[2:].rstrip("│ ") for line in (lines[1:-1] if text.startswith("╭") else lines[2:])]
    parts: list[list[str]] = [[]]
    for row in rows:
        if row and set(row) <= {"─", "-"}:
            parts.append([])
        elif not row.startswith(" " * 8):  # what stands that far in explains an option
            parts[-1].append(row.strip())
    kept = [" ".join(part) for part in parts if part and not part[0].startswith(("Argument helptext", "For full"))]
    said = " ".join(f"{part.rstrip('.')}." for part in kept)
    for pattern, plain in _REWRITES:
        said = re.sub(pattern, plain, said)
    return said


def _registry() -> ConstructorRegistry:
    """Constructors that tyro lacks: schedules are written as text on the command line."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def schedule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Schedule] | None:
        if info.type is not Schedule:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="SCHEDULE",
            instance_from_str=lambda words: parse_schedule(words[0]),
            is_instance=lambda value: isinstance(value, Schedule),
            str_from_instance=lambda value: [str(value)],
        )

    return registry
