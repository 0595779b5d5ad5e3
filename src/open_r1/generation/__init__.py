"""Prompts -> sampled completions."""

from open_r1.generation.sampling import Backend, Completion, Conversation, Row, Sampling

__all__ = ["Backend", "Completion", "Conversation", "Row", "Sampling"]
