"""Modules of the user's own, which the words of a command line name: nothing else ever causes an import."""

import importlib
import sys
from pathlib import Path
from typing import Any

from interp.errors import ConfigError, UnknownNameError, did_you_mean

__all__ = ["attribute_of", "import_module"]


def import_module(flag: str, module: str) -> None:
    """Import a module by name; the current folder is searched as well, as with `python -m`.

    Raises:
        ConfigError: it cannot be imported, or is named by a path.

    >>> import_module("--import", "math")
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    if not module:
        raise ConfigError(f"`{flag}` needs the name of a module, such as my_package.my_task.")
    if "/" in module or module.endswith(".py"):
        raise ConfigError(
            f"`{flag}` needs the name of a module, not a path; got {module}. "
            f"Write `{flag} {Path(module).stem}` in its folder."
        )
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"`{flag}` {module} failed: {reason}") from error


def attribute_of(name: str) -> Any:
    """Value MODULE:NAME of a module that is imported.

    Raises:
        UnknownNameError: the module is not imported, or has no such name.

    >>> import_module("--import", "math")
    >>> attribute_of("math:pi") > 3
    True
    """
    module, _, attribute = name.partition(":")
    if module not in sys.modules:
        raise UnknownNameError(
            f"`{name}` must be MODULE:NAME of an imported module: `interp --import {module} ...` imports it."
        )
    offered = vars(sys.modules[module])
    if attribute not in offered:
        public = [one for one in offered if not one.startswith("_")]
        raise UnknownNameError(f"`{module}` has no `{attribute}`. {did_you_mean(attribute, public)}")
    return offered[attribute]
