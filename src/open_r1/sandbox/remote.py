"""What sandboxes over a network share: keys and addresses, from the environment or from `.env`, their patience, and
the thread that their batches run in.
"""

import asyncio
import concurrent.futures
import os
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 1.0, 30.0


def read_settings(names: Iterable[str]) -> dict[str, str]:
    """Those of the names that are set and not empty; the environment goes before `.env`.

    `.env` is looked for in the working directory and above it, and only where python-dotenv is installed.
    """
    found: dict[str, str | None] = {}
    try:
        import dotenv
    except ImportError:
        pass
    else:
        found = dotenv.dotenv_values(dotenv.find_dotenv(usecwd=True))
    found = {**found, **os.environ}
    return {name: found[name].strip() for name in names if (found.get(name) or "").strip()}


def backoff_seconds(num_tries: int) -> float:
    """Doubled with each try, and anything between half and all of it: those who failed together come back apart."""
    return min(FIRST_BACKOFF_SECONDS * 2 ** (num_tries - 1), MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1.0)


class LoopThread:
    """A thread with an event loop of its own, begun when there is work: for callers of any thread, with a loop or not.

    `at_end` is awaited there when it is closed, once the work under way has been cancelled and is through with it.
    """

    def __init__(self, name: str, at_end: Callable[[], Awaitable[None]]):
        self._name, self._at_end = name, at_end
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._tasks: set[asyncio.Task] = set()

    def run(self, work: Callable[[], Coroutine]) -> None:
        """Returns when the work is done; or undone, after `close`, or when another thread closes."""
        with self._lock:
            if self._is_closed:
                return
            future = asyncio.run_coroutine_threadsafe(self._noted(work), self._running_loop())
        try:
            future.result()
        except concurrent.futures.CancelledError:
            pass
        except BaseException:  # KeyboardInterrupt: the work is ended in the other thread
            future.cancel()
            raise

    def close(self) -> None:
        """Cancels what runs; returns when it has ended, and `at_end` is through."""
        with self._lock:
            self._is_closed = True
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()

    async def _noted(self, work: Callable[[], Coroutine]) -> None:
        self._tasks.add(asyncio.current_task())
        try:
            await work()
        finally:
            self._tasks.discard(asyncio.current_task())

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._at_end()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
            self._thread.start()
        return self._loop
