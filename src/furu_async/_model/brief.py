"""Short texts of values, for ``repr`` and error messages: bounded in length, one level deep, never raising."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from furu_async._model.base import Artifact

_ITEMS = 6
_TEXT = 80
_WHOLE = 600
_BRACKETS: dict[type[Any], str] = {list: "[]", tuple: "()", set: "{}", frozenset: "{}"}


def clip(text: str, limit: int = _TEXT) -> str:
    """``text``, with its middle left out if it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def brief(value: Any, levels: int = 2) -> str:
    """A bounded text for any value. Artifacts and records inside it are named, not opened."""
    kind = type(value)
    if isinstance(value, Artifact):
        return f"{kind.__name__}(…)"
    if kind in (str, bytes) and len(value) > _TEXT:
        return clip(repr(value[:_TEXT] + value[-_TEXT:]))
    if isinstance(value, enum.Enum):
        return f"{kind.__name__}.{value.name}"
    if kind in _BRACKETS:
        return _sequence(value, _BRACKETS[kind], levels)
    if kind is dict:
        return _mapping(value, levels)
    if isinstance(value, dict | list | tuple | set | frozenset) or dataclasses.is_dataclass(kind):
        return f"{kind.__name__}(…)"
    if kind is int and value.bit_length() > 4 * _TEXT:
        return f"<an int of {value.bit_length()} bits>"
    return safe_repr(value)


def safe_repr(value: object, limit: int = _TEXT) -> str:
    """``repr(value)``, bounded; a text about it where ``repr`` raises."""
    try:
        return clip(repr(value), limit)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def describe(value: object) -> str:
    """Value and type, for "expected …, got …"."""
    return f"{brief(value)} ({type(value).__qualname__})" if value is not None else "None"


def call(name: str, arguments: dict[str, Any]) -> str:
    """``name(a=1, b=…)``, bounded as a whole."""
    inner = ", ".join(f"{key}={brief(value)}" for key, value in arguments.items())
    return f"{name}({clip(inner, _WHOLE)})"


def _sequence(value: Any, brackets: str, levels: int) -> str:
    if not value:
        return f"{type(value).__name__}()" if brackets == "{}" else brackets
    if levels <= 0:
        return f"{brackets[0]}…{brackets[1]}"
    parts: list[str] = []
    for item in value:
        if len(parts) == _ITEMS:
            parts.append(f"… {len(value) - _ITEMS} more")
            break
        parts.append(brief(item, levels - 1))
    comma = "," if brackets == "()" and len(value) == 1 else ""
    return f"{brackets[0]}{', '.join(parts)}{comma}{brackets[1]}"


def _mapping(value: dict[Any, Any], levels: int) -> str:
    if not value:
        return "{}"
    if levels <= 0:
        return "{…}"
    parts: list[str] = []
    for key, item in value.items():
        if len(parts) == _ITEMS:
            parts.append(f"… {len(value) - _ITEMS} more")
            break
        parts.append(f"{brief(key, levels - 1)}: {brief(item, levels - 1)}")
    return "{" + ", ".join(parts) + "}"
