"""The sandbox that needs no account: programs in namespaces, or under landlock, on this machine."""

from open_r1.sandbox.local.sandbox import LocalSandbox, Tier, available_tier

__all__ = ["LocalSandbox", "Tier", "available_tier"]
