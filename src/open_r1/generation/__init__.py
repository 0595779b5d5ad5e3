"""Prompts -> sampled completions."""

from open_r1.generation.sampling import Backend, Completion, Conversation, Meter, Row, Sampling, Tokens

__all__ = ["Backend", "Completion", "Conversation", "Meter", "Row", "Sampling", "Tokens"]
