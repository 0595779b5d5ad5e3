"""`make plan`: what a recipe needs and costs, computed before anything is spent. No torch, no network.

    architecture    config.json -> parameters, bytes a token, FLOP a token
    start           recipe -> the architecture that it starts from, wherever its weights are
    gpus            what a GPU has: memory, FLOP/s, bytes/s, price, each with its source
    layouts         how a model is shared out over processes
    work            recipe -> tokens of a step, steps, tokens in all
    memory          recipe -> GiB on each GPU, row by row, under any layout
    throughput      recipe -> hours, with the assumptions that they rest on
    mends           what to change where something does not fit
    plan            all of it for one recipe, and its text
    tables          the tables for READMEs

The README of this folder holds the model, its assumptions, and how far it was off where something could be measured.
"""

from open_r1.planning.plan import Plan, plans_of
from open_r1.planning.tables import Summary, markdown, summary
from open_r1.planning.throughput import Assumptions

__all__ = ["Assumptions", "Plan", "Summary", "markdown", "plans_of", "summary"]
