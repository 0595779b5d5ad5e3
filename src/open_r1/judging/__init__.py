"""Whether an answer means what the gold answer means, said by processes that a hostile answer can only end.

Light to import: the judge itself (math-verify, sympy) is imported by the workers alone.
"""

from open_r1.judging.pool import JudgeCounts, JudgePool, close_pools, shared_pool
from open_r1.judging.verdict import Verdict

__all__ = ["JudgeCounts", "JudgePool", "Verdict", "close_pools", "shared_pool"]
