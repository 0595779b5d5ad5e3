"""Programs that a model wrote, run where they can do no harm: `build_sandbox("local").run([Program("print(1)")])`.

A sandbox knows programs and limits, never tests: what a program should have printed is compared outside of it.
"""

import atexit
import threading
from collections import OrderedDict

from open_r1.sandbox.e2b import E2BSandbox
from open_r1.sandbox.local import LocalSandbox, available_tier
from open_r1.sandbox.piston import PistonSandbox
from open_r1.sandbox.protocol import (
    STATUSES,
    Execution,
    Limits,
    Program,
    Sandbox,
    SandboxUnavailable,
    Status,
    infrastructure_error,
)
from open_r1.sandbox.router import RouterSandbox
from open_r1.wording import closest

SANDBOXES: dict[str, type[Sandbox]] = {
    "local": LocalSandbox,
    "e2b": E2BSandbox,
    "router": RouterSandbox,
    "piston": PistonSandbox,
}

MAX_SHARED_LOCAL = 6
_shared: OrderedDict[tuple, Sandbox] = OrderedDict()
_lock = threading.Lock()


def build_sandbox(name: str, allow_unsafe_local: bool = False, **limits) -> Sandbox:
    """The sandbox of that name with these limits, the fields of `Limits`.

    `allow_unsafe_local` lets the local one run programs without protection where this machine has none to give.
    Raises ValueError for a name or a limit that there is not, SandboxUnavailable if it cannot be had here.
    """
    if name not in SANDBOXES:
        raise ValueError(f"unknown sandbox {name!r} (known: {', '.join(SANDBOXES)}){closest(name, SANDBOXES)}")
    known = list(Limits.__dataclass_fields__)
    for limit in limits:
        if limit not in known:
            raise ValueError(f"unknown limit {limit!r} of a sandbox (known: {', '.join(known)}){closest(limit, known)}")
    sandbox = SANDBOXES[name]
    if name == "local" and allow_unsafe_local:
        return LocalSandbox(Limits(**limits), tier=available_tier() or "C")
    if problem := sandbox.problem():
        raise SandboxUnavailable(f"sandbox {name}: {problem}")
    return sandbox(Limits(**limits))


def isolation_of(name: str) -> str | None:
    """The tier in which the local sandbox runs programs on this machine (A, B; C without protection), else None."""
    return (available_tier() or "C") if name == "local" else None


def shared_sandbox(name: str, **limits) -> Sandbox:
    """As `build_sandbox`, but one for all who ask for the same in this process; closed when the process ends.

    A local sandbox has as many servers as this process has CPUs. So of the local ones only those that were asked for
    last keep theirs; who still holds another can use it all the same.
    """
    key = (name, *sorted(limits.items()))
    with _lock:
        if key not in _shared:
            _shared[key] = build_sandbox(name, **limits)
            atexit.register(_shared[key].close)
        _shared.move_to_end(key)
        sandbox = _shared[key]
        local = [key for key in _shared if key[0] == "local"]
        idle = [_shared.pop(key) for key in local[:-MAX_SHARED_LOCAL]]
    for other in idle:
        other.close()
        atexit.unregister(other.close)
    return sandbox


__all__ = [
    "SANDBOXES",
    "STATUSES",
    "Execution",
    "Limits",
    "Program",
    "Sandbox",
    "SandboxUnavailable",
    "Status",
    "build_sandbox",
    "infrastructure_error",
    "isolation_of",
    "shared_sandbox",
]
