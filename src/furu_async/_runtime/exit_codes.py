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

INPUTS: Final = 77
"""What the node needs has no result."""

FAILED: Final = 78
"""The node has failed; what is to follow is the controller's to decide."""

INTERRUPTED: Final = 79
"""It was told to end before it was done."""

NOT_WANTED: Final = 80
"""It was submitted, and is not wanted any more; jobs that wait for it must not start."""
