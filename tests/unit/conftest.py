"""What a test of this folder starts in this process ends with it."""

from collections.abc import Iterator

import pytest

from furu_async._store.beat import Beat


@pytest.fixture(autouse=True)
def _beats_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A beat that goes on would write to the store in the middle of another test, through what that has patched."""
    started: list[Beat] = []
    start = Beat.start

    def start_and_note(self: Beat) -> None:
        started.append(self)
        start(self)

    monkeypatch.setattr(Beat, "start", start_and_note)
    yield
    for beat in started:
        beat.stop()
