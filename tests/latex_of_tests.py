"""Strategies for answers that nobody would think of: LaTeX from a grammar, broken LaTeX, any text."""

from accuracy_cases import CASES
from hypothesis import strategies as st

NUMBERS = st.one_of(st.integers(-999, 9999).map(str), st.decimals(-99, 99, places=2).map(str), st.just("0"))
LEAVES = st.one_of(NUMBERS, st.sampled_from([*"abexyn", r"\pi", r"\infty", r"\theta", "i"]))
PIECES = [
    *(r"\frac", r"\sqrt", r"\left(", r"\right]", r"\{", r"\}", "{", "}", "(", ")", "[", "]", "^", "_", "&", r"\\", "$"),
    *(r"\text{", r"\pm", r"\mp", r"\cup", r"\in", r"\le", "=", "<", ",", ";", " and ", " or ", "%", "°", "½", "²", "−"),
    *(
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\boxed{",
        "</think>",
        "<answer>",
        "</answer>",
        "\x00",
        "\ud7ff",
        "零",
        "١",
    ),
    *("cm", "dollars", r"\$", "x", "1", "12", ".5", "!", "|", "/", ":", "e", "i", r"\log_", r"\int", r"\sum_{k=1}^{9}"),
]


def _larger(smaller):
    two = st.tuples(smaller, smaller)
    return st.one_of(
        two.map(lambda pair: f"{pair[0]}+{pair[1]}"),
        two.map(lambda pair: f"{pair[0]} - {pair[1]}"),
        two.map(lambda pair: rf"{pair[0]} \cdot {pair[1]}"),
        two.map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"),
        two.map(lambda pair: f"({pair[0]})^{{{pair[1]}}}"),
        two.map(lambda pair: f"({pair[0]}, {pair[1]})"),
        two.map(lambda pair: rf"\{{{pair[0]}, {pair[1]}\}}"),
        two.map(lambda pair: f"{pair[0]} = {pair[1]}"),
        two.map(lambda pair: rf"{pair[0]} \pm {pair[1]}"),
        two.map(lambda pair: rf"[{pair[0]}, {pair[1]}) \cup (0, 1]"),
        two.map(lambda pair: rf"\begin{{pmatrix}} {pair[0]} \\ {pair[1]} \end{{pmatrix}}"),
        smaller.map(lambda one: rf"\sqrt{{{one}}}"),
        smaller.map(lambda one: rf"\sin({one})"),
        smaller.map(lambda one: f"({one})!"),
        smaller.map(lambda one: rf"{one}\text{{ cm}}"),
        smaller.map(lambda one: rf"x \ge {one}"),
    )


GRAMMAR = st.recursive(LEAVES, _larger, max_leaves=8)
REAL = st.sampled_from(sorted({gold for cases in CASES.values() for gold, _, _ in cases if len(gold) < 200}))


@st.composite
def broken(draw):
    """A real answer with something cut out or put in."""
    answer = draw(st.one_of(REAL, GRAMMAR))
    start = draw(st.integers(0, len(answer)))
    end = draw(st.integers(start, min(len(answer), start + 3)))
    return answer[:start] + draw(st.sampled_from(["", *PIECES])) + answer[end:]


ANSWERS = st.one_of(REAL, GRAMMAR, broken(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text())
