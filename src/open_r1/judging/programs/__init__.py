"""Whether a program solves its task, by the tests of its row. What a test expects never goes where the program is.

rows        a row's `verification_info` -> tests, or the line that says why not
output      printed text, compared                 values      what functions return: how it is brought out
asserts     an assert, split in two                evaluation  the half of it that is worked out here
judge       a batch of programs against their tests, in a sandbox
inside      what is run around the program, in the sandbox; a text to us
"""

from open_r1.judging.programs.judge import KILLS, Outcome, RunCounts, judge_programs
from open_r1.judging.programs.rows import BadRow, Row, problem_of, read_row

__all__ = ["KILLS", "BadRow", "Outcome", "Row", "RunCounts", "judge_programs", "problem_of", "read_row"]
