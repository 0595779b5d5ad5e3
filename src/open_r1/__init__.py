"""open_r1: recipes that reproduce how DeepSeek-R1 was made."""

__version__ = "0.1.0"
