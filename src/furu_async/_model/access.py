"""The port through which an artifact reaches what computes, stores and loads it.

The model knows nothing of stores and executors. Whoever does installs an `Access`; without one, the default of the
library is looked up by name when it is first needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from furu_async._model.artifact import Furu

_DEFAULT = ("furu_async._executors.access", "ACCESS")


class Access(Protocol):
    """What an artifact may ask for. The names are those of the methods of `Furu`; times are in seconds."""

    def get(self, obj: Furu[Any], /) -> Any:
        """Compute if needed, then load; blocks."""

    async def aget(self, obj: Furu[Any], executor: Any, /) -> Any:
        """Compute if needed, then load."""

    async def aget_all(self, objs: Sequence[Furu[Any]], executor: Any, /) -> list[Any]:
        """Compute all that is needed, then load all, in order."""

    def exists(self, obj: Furu[Any], /) -> bool:
        """Published and valid? Lets exceptions through."""

    async def aexists(self, obj: Furu[Any], /) -> bool:
        """The same, off the loop."""

    def exists_quiet(self, obj: Furu[Any], /) -> bool:
        """Yes or no: never raises, ends in bounded time."""

    async def aexists_quiet(self, obj: Furu[Any], /) -> bool:
        """The same, off the loop."""

    def load(self, obj: Furu[Any], /) -> Any:
        """Load what is published; FuruMissingArtifact if nothing is."""

    async def aload(self, obj: Furu[Any], /) -> Any:
        """The same, off the loop."""

    def state(self, obj: Furu[Any], /) -> dict[str, Any]:
        """What the store says of it, JSON-able."""

    async def astate(self, obj: Furu[Any], /) -> dict[str, Any]:
        """The same, off the loop."""

    def metadata(self, obj: Furu[Any], /) -> dict[str, Any]:
        """The metadata of the published result, JSON-able."""

    async def ametadata(self, obj: Furu[Any], /) -> dict[str, Any]:
        """The same, off the loop."""

    def directory(self, obj: Furu[Any], /) -> str:
        """Folder of the published result; raises if nothing is published."""

    def checkpoint_dir(self, obj: Furu[Any], /) -> str:
        """Only asked where no attempt is bound: raises, saying so."""


_installed: Access | None = None


def access() -> Access:
    """The installed `Access`, or the library's own."""
    if _installed is None:
        module, name = _DEFAULT
        install_access(cast(Access, getattr(import_module(module), name)))
    assert _installed is not None
    return _installed


def install_access(new: Access | None) -> Access | None:
    """Use ``new`` from now on (None: the library's own); returns what was installed before."""
    global _installed
    before, _installed = _installed, new
    return before
