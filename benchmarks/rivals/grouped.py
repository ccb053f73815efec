"""Group commit, as a user of a store without it writes it: what waits is committed together, in a thread, and told then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.rivals import Low

Order = tuple[str, int, int, int]  # id, from, to, amount


class Group:
    """Where transfers wait for their commit; `commit` does several in one transaction, or raises and has done none."""

    def __init__(self, commit: Callable[[list[Order]], list[str | Low]]) -> None:
        self._commit = commit
        self._waiting: list[tuple[Order, asyncio.Future[str]]] = []
        self._thread = ThreadPoolExecutor(1)
        self._task: asyncio.Task[None] | None = None

    async def add(self, *order: *Order) -> str:
        """Do one, with those that wait at the same time."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((order, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            orders = [order for order, _ in waiting]
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._do, orders)
            for (_, future), result in zip(waiting, results, strict=True):
                if future.done():  # its client has gone
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        self._task = None

    def _do(self, orders: list[Order]) -> list[str | Exception]:
        """Commit them; if one fails, each by itself, so that it fails alone."""
        try:
            return list(self._commit(orders))
        except Exception as error:
            if len(orders) == 1:
                return [error]
            return [result for order in orders for result in self._do([order])]

    def close(self) -> None:
        self._thread.shutdown()
