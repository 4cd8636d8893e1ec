"""Which backend runs the arithmetic: one small function, so that a choice is never silent."""

from typing import Literal, get_args

Backend = Literal["auto", "torch", "native", "triton", "tcnn"]


def choose(requested: str, reasons: dict[str, str | None]) -> str:
    """Return the backend to use.

    reasons: backend name -> why it cannot run this work, or None where it can, fastest first. "auto" takes the first
    that can. Raises ValueError when an explicit request cannot be met, or nothing can run it, with the reason.
    """
    if requested not in get_args(Backend):
        raise ValueError(f"backend={requested!r}: expected one of {', '.join(get_args(Backend))}")
    if requested == "auto":
        able = [name for name, reason in reasons.items() if reason is None]
        if not able:
            raise ValueError(f"backend='auto': none can run this: {reasons}")
        return able[0]
    if requested not in reasons:
        raise ValueError(f"backend={requested!r} cannot run this: expected one of {', '.join(reasons)}")
    if reasons[requested] is not None:
        raise ValueError(f"backend={requested!r} cannot run this: {reasons[requested]}")
    return requested
