"""What an artifact needs: the artifacts in its fields, and what its ``@dependency`` methods return. No recursion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from furu_async._model.base import Artifact, set_slot
from furu_async._model.brief import clip, describe
from furu_async._model.identity import artifacts_in, compute_hash, cycle_error, direct
from furu_async.errors import FuruDefinitionError

if TYPE_CHECKING:
    from furu_async._model.artifact import Furu

_LONGEST_PATH = 1_000_000


def dependencies(obj: Furu[Any]) -> tuple[Furu[Any], ...]:
    """The direct dependencies, each once, in a stable order: fields first, then ``@dependency`` methods by name.

    Raises:
        FuruDefinitionError: it depends on itself, or a ``@dependency`` method fails or returns something else.
    """
    try:
        return cast("tuple[Furu[Any], ...]", obj._dependencies)
    except AttributeError:
        pass
    own = compute_hash(obj)
    found: dict[str, Artifact] = {}
    for inner in direct(obj):
        found.setdefault(compute_hash(inner), inner)
    for name in type(obj).__furu__.depends:
        for inner in _returned(obj, name):
            found.setdefault(compute_hash(inner), inner)
    if own in found:
        raise cycle_error([obj, found[own]])
    result = tuple(found.values())
    set_slot(obj, "_dependencies", result)
    return cast("tuple[Furu[Any], ...]", result)


def _returned(obj: Artifact, name: str) -> list[Artifact]:
    where = f"{type(obj).__qualname__}.{name}()"
    try:
        value = getattr(obj, name)()
    except Exception as error:
        raise FuruDefinitionError(
            f"the @dependency method {where} raised {type(error).__name__}: {clip(str(error), 300)}"
        ) from error
    return list(_only_artifacts(value, where))


def _only_artifacts(value: Any, where: str) -> Iterator[Artifact]:
    pending: list[Any] = [value]
    steps = 0
    while pending:
        steps += 1
        if steps > 10 * _LONGEST_PATH:
            raise FuruDefinitionError(f"the @dependency method {where} returned something without end")
        one = pending.pop()
        if one is None:
            continue
        if isinstance(one, Artifact):
            yield one
        elif isinstance(one, dict):
            pending.extend(reversed(list(one.values())))
        elif isinstance(one, set | frozenset):
            inner = [item for item in one if isinstance(item, Artifact)]
            pending.extend(item for item in one if not isinstance(item, Artifact))
            pending.extend(sorted(inner, key=compute_hash, reverse=True))
        elif isinstance(one, list | tuple) or hasattr(type(one), "__next__"):
            pending.extend(reversed(list(one)))
        elif hasattr(type(one), "__dataclass_fields__"):
            yield from artifacts_in(one)
        else:
            raise FuruDefinitionError(
                f"the @dependency method {where} returned {describe(one)}",
                hint="return artifacts: one, or a list, tuple, set or dict of them, or None",
            )


def closure(targets: Iterable[Furu[Any]]) -> dict[str, Furu[Any]]:
    """All artifacts that the targets need, themselves included, by hash; dependencies come first.

    Raises:
        FuruDefinitionError: a cycle, printed; or dependencies without end.
    """
    done: dict[str, Furu[Any]] = {}
    path: dict[str, Furu[Any]] = {}
    for target in targets:
        stack: list[tuple[Furu[Any], bool]] = [(target, False)]
        while stack:
            obj, below_done = stack.pop()
            key = compute_hash(obj)
            if below_done:
                del path[key]
                done[key] = obj
            elif key in path:
                inside = list(path.values())
                start = list(path).index(key)
                raise cycle_error([*inside[start:], obj])
            elif key not in done:
                path[key] = obj
                if len(path) > _LONGEST_PATH:
                    raise FuruDefinitionError(
                        f"dependencies without end: {obj!r} is {len(path)} steps below {target!r}",
                        hint="a @dependency method makes a new artifact each time",
                    )
                stack.append((obj, True))
                stack.extend((inner, False) for inner in reversed(dependencies(obj)))
    return done


def check_acyclic(targets: Iterable[Furu[Any]]) -> None:
    """Walk everything that the targets need.

    Raises:
        FuruDefinitionError: a cycle, printed; or dependencies without end.
    """
    closure(targets)
