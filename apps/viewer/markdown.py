"""Foreign text in the panel's markdown: names from stores, files and folders are shown as they are, never obeyed."""

import re

_MARKS = re.compile(r"[&<>|`*_\[\]!\\~#{}]")


def plain(text: object) -> str:
    """Text as markdown that shows it on one line: the browser would run what a name has of HTML."""
    return _MARKS.sub(lambda mark: f"&#{ord(mark[0])};", " ".join(str(text).split()))


def shell(command: str) -> str:
    """A command, quoted by shlex, as a block of markdown that no name in it ends."""
    # Viser reads ![...](...) as a picture in blocks, too; to a shell, '' between two quoted letters is nothing.
    command = command.replace("![", "!''[")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return f"{fence}\n{command}\n{fence}"
