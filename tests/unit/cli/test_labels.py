from furu_async import Furu
from furu_async._cli import labels
from furu_async._cli.labels import Labels
from furu_async.report import RunEvent


class Link(Furu[int]):
    n: int
    below: "tuple[Link, ...]" = ()

    def _create(self) -> int:
        return self.n


def label(names: Labels, obj: Furu[int]) -> str:
    return names.of(RunEvent(at=0.0, kind="node_started", hash=obj.furu_hash, name="m.Link"))


def chain(length: int) -> list[Link]:
    links = [Link(n=0)]
    for n in range(1, length):
        links.append(Link(n=n, below=(links[-1],)))
    return links


def test_a_node_is_called_by_its_fields() -> None:
    links = chain(4)
    names = Labels([links[-1]])
    assert label(names, links[0]) == repr(links[0]) == "Link(n=0, below=())"
    assert label(names, links[2]) == repr(links[2])
    assert label(names, Link(n=99)) == "m.Link"


def test_the_label_of_an_event_comes_first() -> None:
    assert Labels().of(RunEvent(at=0.0, kind="node_done", name="m.A", label="A(x=1)")) == "A(x=1)"
    assert Labels().of(RunEvent(at=0.0, kind="node_done", name="m.A")) == "m.A"


def test_one_question_walks_only_so_far_and_the_next_goes_on() -> None:
    links = chain(labels._STEPS + 100)
    names = Labels([links[-1]])
    assert label(names, links[0]) == "m.Link"
    assert label(names, links[0]) == "Link(n=0, below=())"


def test_shared_nodes_are_walked_once() -> None:
    pair = (Link(n=0), Link(n=1))
    for n in range(2, 62, 2):
        pair = (Link(n=n, below=pair), Link(n=n + 1, below=pair))
    names = Labels(pair)
    assert label(names, Link(n=0)) == "Link(n=0, below=())"
