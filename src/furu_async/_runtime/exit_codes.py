"""With which codes the processes that run in jobs end. What they tell is in the store; a code is for people."""

from __future__ import annotations

from typing import Final

ENDED: Final = 0
"""As planned: nothing left to do, asked to stop, or not wanted."""

BUG: Final = 70
"""An error of the library's own."""

CANNOT_START: Final = 75
"""The environment does not let it work: the store is not visible, a module cannot be imported."""

VERSION_SKEW: Final = 76
"""Other code than the controller's."""
