"""What is said of words on the command line that do not fit: one line, made from the box that tyro draws."""

import re

_RULE = re.compile(r"[-─]{4,}")
_TYPE = re.compile(r"Error parsing --(\S+): no type matching (.+) could be instantiated from \[(.*)\]\.?")
_CHOICE = re.compile(r"invalid choice '(.*)' for argument '--(\S+)'\. Expected one of \((.*)\)\.?")


def complaint(box: str, command: str) -> str:
    """One line: the option, what was given and what is accepted, and where more is said."""
    parts = [" ".join(line.strip(" │") for line in part).strip() for part in _parts(box)]
    said = next((part for part in parts if part), "the options do not fit").split(" Got errors:")[0].strip()
    hints = [part for part in parts[1:] if part.startswith("Perhaps you meant")]
    if found := _TYPE.fullmatch(said):
        name, kinds, given = found.groups()
        said = f"{name}={given}: expected {kinds.replace('{None}|', '').strip('{}')}"
    elif found := _CHOICE.fullmatch(said):
        given, name, choices = found.groups()
        said = f"{name}={given!r}: expected one of {choices.replace(chr(39), '').strip(', ')}"
    words = " ".join([said, *hints])
    return f"{re.sub(' +', ' ', words)} (see nf {command} --help)"


def _parts(box: str) -> list[list[str]]:
    """Lines of the box below its title, cut where it has a rule."""
    lines = box.splitlines()
    framed = box.startswith("╭")  # else drawn in ASCII: the title is the first line, and a rule follows it
    parts: list[list[str]] = [[]]
    for line in lines[1:-1] if framed else lines[2:]:
        if _RULE.fullmatch(line.strip(" │")):
            parts.append([])
        else:
            parts[-1].append(line)
    return parts
