"""The command line: `interp demo | train | resume | replay | measure | report | verify | list | recipes`.

Every command is a dataclass that tyro turns into flags; a run's own flags are the fields of its config. Heavy libraries
are imported inside the commands, so that `--help` is quick. A user's mistake ends with one line and exit code 2.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import AvoidSubcommands, OmitArgPrefixes, Positional, arg

from interp import recipes
from interp.config import RunConfig
from interp.errors import DivergedError, InterpError, UnknownNameError
from interp.schedule import Schedule, parse_schedule

__all__ = ["main"]
