"""The initializers as a list, read from their docstrings: one text, two readers.

The terminal and the page in the docs both come from here, so that neither can say
something that the function does not.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

from jaxinit import initializers


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the docstring of one initializer says.

    Attributes:
      name: of the function, with the aliases behind it.
      call: the name with its options, as one types it.
      use: the first sentence.
      formula: in LaTeX, empty where the sentence says it all.
      source: of the formula, with its equation number.
      text: the whole docstring.
    """

    name: str
    aliases: tuple[str, ...]
    call: str
    use: str
    formula: str
    source: str
    text: str


def catalogue() -> list[Entry]:
    """An entry for each initializer, in the order of ``__all__``."""
    named: dict[int, list[str]] = {}
    for name in initializers.__all__:
        named.setdefault(id(getattr(initializers, name)), []).append(name)
    entries = []
    for names in named.values():
        item = getattr(initializers, names[0])
        if isinstance(item, initializers.Initializer) or _builds(item):
            entries.append(_entry(names, item))
    return entries


def find(name: str) -> Entry | None:
    """The entry of this name or alias, None if there is none."""
    return next((e for e in catalogue() if name in (e.name, *e.aliases)), None)


def _builds(item: Any) -> bool:
    """Whether this is a function that returns an initializer."""
    if inspect.isclass(item) or not callable(item):
        return False
    returns = inspect.signature(item).return_annotation
    return returns in (initializers.Initializer, "Initializer")


def _entry(names: list[str], item: Any) -> Entry:
    if isinstance(item, initializers.Initializer):
        value = names[0].rstrip("s")
        text = f"Fill with {value}s. An initializer itself: pass it without a call."
        return Entry(names[0], tuple(names[1:]), names[0], text, "", "", text)
    text = inspect.getdoc(item) or ""
    return Entry(
        name=names[0],
        aliases=tuple(names[1:]),
        call=f"{names[0]}{_options(item)}",
        use=_joined(text.split("\n\n")[0]),
        formula=_formula(text),
        source=_after(text, "Source:"),
        text=text,
    )


def _options(item: Any) -> str:
    parameters = inspect.signature(item).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(plain))


def _formula(text: str) -> str:
    match = re.search(
        r"^\.\. math::(.*?)(?=\n\S|\n\n(?=\S))", text + "\n\nx", re.S | re.M
    )
    return _joined(match.group(1)) if match else ""


def _after(text: str, heading: str) -> str:
    match = re.search(rf"^{heading}(.*?)(?=\n\n|\Z)", text, re.S | re.M)
    return _joined(match.group(1)) if match else ""


def _joined(text: str) -> str:
    return " ".join(text.split())


def as_markdown(entries: list[Entry]) -> str:
    """The page of the docs: a section for each initializer."""
    parts = [
        "# The initializers, one by one",
        "Made from the docstrings by `jaxinit initializers --markdown`. How to choose: "
        "[initializers.md](initializers.md).",
    ]
    for entry in entries:
        also = f" (also `{'`, `'.join(entry.aliases)}`)" if entry.aliases else ""
        parts.append(f"## `{entry.name}`{also}")
        parts.append(f"```text\n{entry.call}\n```")
        parts.append(_prose(entry.text))
    return "\n\n".join(parts) + "\n"


def _prose(text: str) -> str:
    """A docstring as Markdown: headings bold, formulas and examples as blocks."""
    blocks = []
    for block in re.split(r"\n\n(?=\S)", text):
        head, _, rest = block.partition("\n")
        if head.startswith(".. math::"):
            blocks.append(f"$$ {_joined(block.removeprefix('.. math::'))} $$")
        elif head in ("Args:", "Raises:", "Returns:", "Attributes:"):
            items = re.findall(
                r"^  (\w+): (.*?)(?=^  \w+: |\Z)", rest + "\n", re.S | re.M
            )
            lines = [f"- `{name}`: {_code(said)}" for name, said in items]
            blocks.append(f"**{head[:-1]}**\n\n" + "\n".join(lines))
        elif head == "Example:":
            blocks.append(f"```pycon\n{inspect.cleandoc(rest)}\n```")
        elif head.startswith("Source:"):
            blocks.append(f"**Source:** {_code(block.removeprefix('Source:'))}")
        else:
            blocks.append(_code(block))
    return "\n\n".join(blocks)


def _code(text: str) -> str:
    """Code and names as Markdown writes them."""
    return re.sub(r"``([^`]+)``|:\w+:`~?([^`]+)`", r"`\1\2`", _joined(text))
