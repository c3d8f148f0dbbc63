import pytest

from furu_async._cli.text import clean, duration, number, shorten


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7500, "2 h 05 min"),
        (86400 * 3 + 3600 * 4, "3 d 04 h"),
    ],
)
def test_durations_are_words_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.fault("F116")
def test_nothing_that_moves_a_cursor_or_hides_text_survives() -> None:
    nasty = "a\x1b[2Jb\rc\nd\x00e\x9bf\u202eg\ud800h\x7f"
    shown = clean(nasty)
    assert shown.isprintable()
    assert shown.encode()  # a lone surrogate would not be encodable
    assert shown == "a\\x1b[2Jb\\rc\\nd\\x00e\\x9bf\\u202eg\\ud800h\\x7f"
    assert clean("plain [bold]text[/bold] é漢") == "plain [bold]text[/bold] é漢"
    assert clean("a\tb") == "a    b"


def test_what_is_cut_says_so() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"


def test_numbers_agree_with_their_noun() -> None:
    assert [number(count, "node") for count in (0, 1, 1797)] == ["0 nodes", "1 node", "1,797 nodes"]
