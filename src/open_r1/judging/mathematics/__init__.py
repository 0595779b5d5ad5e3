"""Whether two mathematical answers mean the same; README.md has the policy.

notation   one spelling for many                     reading    what an answer is made of
literals   numbers, exactly                          shortcut   verdicts on numbers alone
values     formulas that certainly differ            units      units, and how they convert
algebra    math-verify and sympy                     judge      all of it, in a worker (the only heavy imports)
"""
