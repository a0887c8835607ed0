"""Which methods a service object offers over the channel, learnt from its type hints.

A public ``async def`` is a call with one result; a public method that returns an ``AsyncIterator`` is a
stream.  All parameters are keyword-only.  A parameter named ``progress`` is not the caller's to give: the
server passes a function that sends progress replies.
"""

from __future__ import annotations

import collections.abc
import inspect
import typing
from typing import Any, Final, NamedTuple

import msgspec

from snapfs import errors

PROGRESS: Final = "progress"


class Method(NamedTuple):
    name: str
    params: type[msgspec.Struct]
    """One field a parameter; unknown fields are refused."""
    result: Any
    """Type of the result, or of one item of a stream."""
    stream: bool
    progress: bool

    def arguments(self, params: dict[str, Any]) -> dict[str, Any]:
        """Checked and converted keyword arguments.

        Raises:
            Invalid: a parameter is missing, unknown or of another type.
        """
        try:
            checked = msgspec.convert(params, self.params)
        except msgspec.ValidationError as error:
            raise errors.Invalid(f"{self.name}: {error}") from None
        return {field: getattr(checked, field) for field in self.params.__struct_fields__}


def _method(name: str, function: Any) -> Method:
    hints = typing.get_type_hints(function)
    returns = hints.pop("return")
    progress = hints.pop(PROGRESS, None) is not None
    stream = typing.get_origin(returns) is collections.abc.AsyncIterator
    if stream:
        (returns,) = typing.get_args(returns)
    parameters = inspect.signature(function).parameters
    fields: list[Any] = [
        (key, hint) if parameters[key].default is inspect.Parameter.empty else (key, hint, parameters[key].default)
        for key, hint in hints.items()
    ]
    params = msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)
    return Method(name, params, returns, stream, progress)


def methods_of(cls: type) -> dict[str, Method]:
    """The public methods of a service class, by name."""
    return {
        name: _method(name, function)
        for name, function in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    }
