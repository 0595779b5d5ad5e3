"""Any recipe for two optimizer steps on a CPU: `make rehearse RECIPE=…`. What needs no GPU is done for real.

shrinking   recipe -> the same recipe, small; every key that it changes is in one table, with the reason
stand_ins   models of the same architecture with random weights, and their tokenizers
rows        rows of a Hub data set's schema, which were written for this repository
judge       verdicts that can be read, in the place of a model that judges
liveliness  a reward that tells random answers apart
rehearsing  the launcher with such a recipe, and what is looked at when it has ended
"""

from open_r1.rehearsal.shrinking import Rehearsal, rehearsal_of

__all__ = ["Rehearsal", "rehearsal_of"]
