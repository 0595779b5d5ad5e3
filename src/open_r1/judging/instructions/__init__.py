"""Whether an answer follows the verifiable instructions of its prompt: the 25 kinds of IFEval (arXiv 2311.07911).

parts      what a text is made of: words, sentences, paragraphs, bullets, sections, …
arguments  what an instruction may be asked with: numbers, relations, words, languages
table      the 25 kinds, and where the words of a kind and IFEval's or Tulu 3's checker disagree
gold       a row's gold, in IFEval's form or in Tulu 3's -> the instructions that it asks for
judge      an answer against them, strictly or loosely
"""

from open_r1.judging.instructions.gold import BadGold, read_instructions
from open_r1.judging.instructions.judge import followed
from open_r1.judging.instructions.table import INSTRUCTIONS, Asked, Instruction

__all__ = ["INSTRUCTIONS", "Asked", "BadGold", "Instruction", "followed", "read_instructions"]
