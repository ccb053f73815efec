"""Plain Python: unprotected, and with what a careful user adds by hand."""

from __future__ import annotations

import asyncio

from benchmarks.rivals import ACCOUNTS, OPENING, Bank, Books, Low, fraud_check, misbehave


class Plain(Bank):
    """Two dicts, nothing more."""

    async def open(self) -> None:
        self.accounts = dict.fromkeys(range(ACCOUNTS), OPENING)
        self.audit: dict[str, dict[str, int]] = {}

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        accounts, audit = self.accounts, self.audit
        if ref in audit:
            return "before"
        if accounts[a] < amount:
            raise Low
        accounts[a] -= amount
        misbehave(ref)
        await fraud_check()
        accounts[b] += amount
        audit[ref] = {"from": a, "to": b, "amount": amount}
        return "now"

    async def total(self) -> int:
        return sum(self.accounts.values())

    async def books(self) -> Books:
        return Books(self.accounts, {ref: (e["from"], e["to"], e["amount"]) for ref, e in self.audit.items()})


class Undone(Plain):
    """A lock an account, taken in order, so that no transfer takes money that is in flight; and undone by hand."""

    async def open(self) -> None:
        self.accounts = dict.fromkeys(range(ACCOUNTS), OPENING)
        self.audit = {}
        self.locks = [asyncio.Lock() for _ in range(ACCOUNTS)]

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        accounts, audit = self.accounts, self.audit
        if a == b:
            raise Low
        first, second = sorted((a, b))
        async with self.locks[first], self.locks[second]:
            if ref in audit:
                return "before"
            was = accounts[a], accounts[b]
            if was[0] < amount:
                raise Low
            try:
                accounts[a] -= amount
                misbehave(ref)
                await fraud_check()
                accounts[b] += amount
                audit[ref] = {"from": a, "to": b, "amount": amount}
            except BaseException:
                accounts[a], accounts[b] = was
                audit.pop(ref, None)
                raise
        return "now"
