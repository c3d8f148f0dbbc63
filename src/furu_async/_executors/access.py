"""What the thin methods of `Furu` (`get`, `aget`, `exists`, …) stand on.

Inside ``_create``, ``_load`` and ``_validate`` every accessor only loads. This module is also imported in
children, so it imports the scheduler only when something has to be computed.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from furu_async._executors import overrides
from furu_async._executors.inspect import metadata_of, state_of
from furu_async._model import context
from furu_async._model.artifact import Furu
from furu_async._runner.loading import check_readable, load_result, published_directory
from furu_async._runner.validity import judge
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import FuruConfig, active_config, use_config
from furu_async.errors import FuruError, FuruMissingArtifact

if TYPE_CHECKING:
    from furu_async._executors.scheduler import ExecutorLike

T = TypeVar("T")


_LOADERS = 4
"""How many threads load the results of one call: a hop for each artifact would cost more than loading small ones."""


class StoreAccess:
    """The default `Access`: the store of the active config, the surrounding scheduler or an implicit `Local`."""

    # -- compute if needed, then load --------------------------------------------------------------------------

    def get(self, obj: Furu[T]) -> T:
        """Compute if needed, then load; blocks.

        Raises:
            FuruError: called inside a running event loop.
        """
        if context.current.get() is not None:
            return self.load(obj)
        if _in_loop():
            raise FuruError("get() was called inside a running event loop", "use `await obj.aget()` there")
        try:
            return self.load(obj)
        except FuruMissingArtifact:
            pass
        from furu_async._executors.sync import run_sync

        async def compute() -> T:
            from furu_async._executors.implicit import close_implicit

            try:
                return await self.aget(obj, None)
            finally:
                await close_implicit()

        return run_sync(compute)

    async def aget(self, obj: Furu[T], executor: ExecutorLike | None) -> T:
        """Compute if needed, then load, off the loop."""
        return (await self.aget_all([obj], executor))[0]

    async def aget_all(self, objs: Sequence[Furu[T]], executor: ExecutorLike | None) -> list[T]:
        """Compute what is missing of ``objs``, then load them all, in order."""
        if context.current.get() is None:
            pending = [obj for obj in objs if not overrides.has(obj)]
            config = active_config()
            flags = await DOOR.user.run(_all_usable, pending, config)
            todo = [obj for obj, usable in zip(pending, flags, strict=True) if not usable]
            if todo or config.always_rerun:
                from furu_async._executors.implicit import compute

                await compute(todo or pending, executor)
        healed: set[str] = set()
        while True:
            try:
                return await self._load_all(objs)
            except FuruMissingArtifact as error:
                damaged = [obj for obj in objs if obj.furu_hash == error.missing]
                if context.current.get() is not None or not damaged or error.missing in healed:
                    raise
                # Its files looked right and cannot be read: the run that is asked looks more closely.
                healed.add(error.missing)
                from furu_async._executors.implicit import compute

                await compute(damaged[:1], executor)

    async def _load_all(self, objs: Sequence[Furu[T]]) -> list[T]:
        if len(objs) == 1:
            return [await self.aload(objs[0])]
        inside = contextvars.copy_context()
        part = max(1, -(-len(objs) // _LOADERS))

        async def load_part(some: Sequence[Furu[T]]) -> list[T]:
            own = inside.copy()  # a context can be entered by one thread at a time
            return await DOOR.user.run(lambda: own.run(lambda: [self.load(obj) for obj in some]))

        parts = [objs[start : start + part] for start in range(0, len(objs), part)]
        return [value for values in await asyncio.gather(*map(load_part, parts)) for value in values]

    # -- load ------------------------------------------------------------------------------------------------

    def load(self, obj: Furu[T]) -> T:
        """Load only; blocks."""
        if overrides.has(obj):
            return overrides.value(obj)
        root = str(active_config().path)
        check_readable(root)
        return load_result(obj, root)

    async def aload(self, obj: Furu[T]) -> T:
        """Load only, off the loop; the context (config, overrides) travels into the thread."""
        if overrides.has(obj):
            return overrides.value(obj)
        inside = contextvars.copy_context()
        return await DOOR.user.run(lambda: inside.run(self.load, obj))

    # -- ask -------------------------------------------------------------------------------------------------

    def exists(self, obj: Furu[Any]) -> bool:
        """Published and ``_validate()`` true; lets exceptions through."""
        if overrides.has(obj):
            return True
        from furu_async._executors.inspect import exists

        return exists(obj, active_config())

    async def aexists(self, obj: Furu[Any]) -> bool:
        """`exists`, off the loop."""
        inside = contextvars.copy_context()
        return await DOOR.user.run(lambda: inside.run(self.exists, obj))

    def exists_quiet(self, obj: Furu[Any]) -> bool:
        """Yes or no; never raises."""
        if overrides.has(obj):
            return True
        try:
            return judge(obj, active_config()).verdict == "valid"
        except Exception:
            return False

    async def aexists_quiet(self, obj: Furu[Any]) -> bool:
        """Yes or no; never raises and never hangs its caller."""
        from furu_async._executors.validity import validate_stored

        if overrides.has(obj):
            return True
        try:
            return (await validate_stored(obj, active_config(), files=True)).verdict == "valid"
        except Exception:
            return False

    def state(self, obj: Furu[Any]) -> dict[str, Any]:
        """What the store says of the artifact."""
        return state_of(obj, str(active_config().path))

    async def astate(self, obj: Furu[Any]) -> dict[str, Any]:
        """`state`, off the loop."""
        return await DOOR.probe.run(state_of, obj, str(active_config().path))

    def metadata(self, obj: Furu[Any]) -> dict[str, Any]:
        """Metadata of the published result."""
        return metadata_of(obj, str(active_config().path))

    async def ametadata(self, obj: Furu[Any]) -> dict[str, Any]:
        """`metadata`, off the loop."""
        return await DOOR.probe.run(metadata_of, obj, str(active_config().path))

    def directory(self, obj: Furu[Any]) -> str:
        """Folder of the published attempt."""
        return published_directory(obj, str(active_config().path))

    def checkpoint_dir(self, obj: Furu[Any]) -> str:
        """Only an attempt has one."""
        raise FuruError(
            f"furu_checkpoint_dir of {obj!r} exists only inside its _create",
            "it passes from attempt to attempt until one succeeds",
        )


def _all_usable(objs: Sequence[Furu[Any]], config: FuruConfig) -> list[bool]:
    with use_config(config):
        check_readable(str(config.path))
        return [judge(obj, config).verdict == "valid" for obj in objs]


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


ACCESS = StoreAccess()
