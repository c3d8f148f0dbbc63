"""``python -m furu_async._plan.diagram`` prints `docs/states.md` from the transition table."""

from __future__ import annotations

from furu_async._plan.states import FIRST_FINAL, SENTENCES, TRANSITIONS, Phase

_HEAD = """\
# The phases of a node

<!-- Printed by `python -m furu_async._plan.diagram > docs/states.md`; a test checks that it is up to date. -->

A run asks the store about its targets and looks below those that are missing. Each node it meets goes through these
phases. Any other change of a phase is a bug, and ends the run with the node's story.
"""


_BETWEEN = (
    "\nFrom every phase but `unknown` and the final ones a node can also end as `skipped` or `cancelled`.\n"
)


def _name(phase: Phase) -> str:
    return phase.name.lower()


def diagram() -> str:
    """The state diagram in mermaid; ways into `skipped` and `cancelled` are left to the table, for legibility."""
    left_out = (Phase.SKIPPED, Phase.CANCELLED)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {_name(Phase.UNKNOWN)}"]
    for old, ways in TRANSITIONS.items():
        lines += [f"    {_name(old)} --> {_name(new)}" for new in ways if new not in left_out]
    lines += [
        f"    {_name(phase)} --> [*]" for phase in Phase if phase >= FIRST_FINAL and phase not in left_out
    ]
    return "\n".join([*lines, "```"])


def document() -> str:
    """All of `docs/states.md`."""
    parts = [_HEAD, diagram(), _BETWEEN]
    parts.append("| Phase | |\n|---|---|")
    parts += [f"| `{_name(phase)}` | {sentence} |" for phase, sentence in SENTENCES.items()]
    parts.append("\n## Transitions\n\n| From | To | When |\n|---|---|---|")
    for old, ways in TRANSITIONS.items():
        parts += [f"| `{_name(old)}` | `{_name(new)}` | {when} |" for new, when in ways.items()]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":  # pragma: no cover
    print(document(), end="")
