"""Prompts -> sampled completions."""

from open_r1.generation.sampling import Completion, Sampling

__all__ = ["Completion", "Sampling"]
