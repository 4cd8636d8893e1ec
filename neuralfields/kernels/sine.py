"""The polynomial pair for sine and cosine: the one definition of its coefficients, for every kernel.

The argument is in half turns: t -> sin(pi t), cos(pi t). Layers fold w0 / pi into their weights, so that the reduction
t = q + f, q whole and |f| <= 1/2, is exact at any size (q by adding and subtracting ROUND = 1.5 * 2^23, good to
|t| < 2^22). sin(pi t) = (-1)^q f P(f^2), cos(pi t) = (-1)^q Q(f^2); P and Q are minimax fits on [0, 1/2], lowest power
first: 8e-9 and 5e-8.

The build runs this file to write the C++ header; it imports nothing for that reason.
"""

ROUND = 12582912.0
SINE = (3.141592502593994, -5.1677021980285645, 2.549957752227783, -0.5976252555847168, 0.07643315196037292)
COSINE = (1.0, -4.934795379638672, 4.058447360992432, -1.3320621252059937, 0.22000567615032196)


def header() -> str:
    """The same numbers as a C++ header."""
    lines = ["// Written by neuralfields/kernels/sine.py.", "#pragma once", f"constexpr float kRound = {ROUND}f;"]
    for name, values in (("kSine", SINE), ("kCosine", COSINE)):
        lines.append(f"constexpr float {name}[] = {{{', '.join(f'{value!r}f' for value in values)}}};")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys
    from pathlib import Path

    Path(sys.argv[1]).write_text(header())
