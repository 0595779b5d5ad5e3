"""A model that judges answers against a rubric, in place of people.

R1 had the answers to its helpful prompts judged four times by a model, in random order, and kept pairs whose mean
scores differ by more than 1 (Nature s41586-025-09422-z, Methods).

    rubric          a .yaml file -> what is looked at, with which weights, on which scale
    asking          rubric, conversation, answers -> the messages that a judge gets, and the JSON schema of its verdict
    reading         the text of a verdict -> scores, or None
    orders          which answers the judge sees together, in which order, how often
    labels          labelled answers -> what a judge is asked, and the verdict that it should give
    cache           verdicts on disk: what is judged once is not paid for again
    spending        tokens and money, and the end of a run that would use too many
    judge           all of it: answers -> scores
    reward_models   a reward model at work: conversations -> rewards
    held_out_pairs  what a reward model is worth, by pairs that it was not trained on
"""

from open_r1.feedback.judge import ModelJudge, judge_of, judge_problems
from open_r1.feedback.rubric import Principle, Rubric, load_rubric

__all__ = ["ModelJudge", "Principle", "Rubric", "judge_of", "judge_problems", "load_rubric"]
