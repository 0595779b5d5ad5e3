"""What a completion answers, in a form that is the same for all who answer the same: what maj@k counts votes by."""

from open_r1.judging.mathematics.literals import number
from open_r1.judging.mathematics.notation import spelled_plainly
from open_r1.judging.mathematics.shortcut import problem_of
from open_r1.recipe import Thinking
from open_r1.rewards.completion import answer_of


def normal_form(answer: str) -> str | None:
    r"""One spelling for the spellings of an answer, a number's exact value if it is one; None if it says nothing.

    `\frac12`, `\dfrac{1}{2}` and `0.5` are all 1/2, and `025` is 25. Formulas that are equal by algebra alone stay two:
    votes for `x+1` and for `1+x` are not counted together.
    """
    if problem_of(answer):
        return None
    plain = spelled_plainly(answer)
    value = number(plain)
    if value is not None:
        return str(value.value)
    return plain.replace(" ", "") or None


def boxed_answer(text: str, thinking: Thinking) -> str | None:
    """The normal form of what stands in the box, or in the answer block, after the thinking; None if nothing does.

    Different answers in one completion are one vote for all of them together.
    """
    forms = dict.fromkeys(normal_form(answer) for answer in answer_of(text, thinking).texts)
    return " | ".join(form for form in forms if form) or None
