"""Settings of a program: environment variables and options, parsed once at the start.

A field ``engine_url`` is the variable PREFIX_ENGINE_URL and the option --engine-url; the option
wins. An unknown variable with the prefix is an error. Nothing here reads the environment itself.
"""

import argparse
from collections.abc import Collection, Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

LogLevel = Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")]


class SettingsError(ValueError):
    """The settings cannot be used; the message says which variable and why, a line for each."""


class ProcessSettings(BaseModel):
    """All that a program is told from outside; a field's docstring is the help of its option."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


S = TypeVar("S", bound=ProcessSettings)


def parse_variables(
    kind: type[S], prefix: str, environment: Mapping[str, str], options: Mapping[str, object]
) -> S:
    """Parse the variables with our prefix; what is in ``options`` counts instead of its variable.

    Raises :class:`SettingsError` with one line for each wrong setting.
    """
    given: dict[str, object] = {
        name.removeprefix(prefix).lower(): text
        for name, text in environment.items()
        if name.startswith(prefix)
    }
    try:
        return kind.model_validate(given | dict(options))
    except ValidationError as error:
        # Never the value: it may be a key.
        problems = error.errors(include_url=False, include_input=False)
        lines = [f"{_variable(prefix, item['loc'])}: {item['msg']}" for item in problems]
        raise SettingsError("\n".join(lines)) from error


def _variable(prefix: str, location: tuple[int | str, ...]) -> str:
    # Rules about several settings have no place of their own.
    return prefix + str(location[0]).upper() if location else "settings"


def add_options(
    parser: argparse.ArgumentParser, kind: type[ProcessSettings], without: Collection[str] = ()
) -> None:
    """Add an option for each setting, but not for those ``without``."""
    for name, field in kind.model_fields.items():
        if name not in without:
            text = (field.description or "").replace("%", "%%")
            parser.add_argument("--" + name.replace("_", "-"), help=text, metavar="VALUE")
