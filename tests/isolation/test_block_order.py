"""Blocks that are left out of order, in another thread, or never: named, undone, and the arena is free."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, Array, NoTransactionError, TransactionError, after_commit
from support.forks import in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena whose lock is not waited for long."""
    with Arena.temporary("16 MiB", name=name, busy_timeout=0.5) as opened:
        with opened.transaction():
            opened.root.update(n=0, m=0, a=Array(4, "i8"))
        yield opened


@pytest.fixture
def second(new_name: Callable[[], str]) -> Iterator[Arena]:
    """Give another one."""
    with Arena.temporary("16 MiB", name=new_name(), busy_timeout=0.5) as opened:
        yield opened


@pytest.fixture
def pools() -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    """Give two pools of one thread each, which live as long as the test."""
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        yield one, two


def block(arena: Arena, key: str = "n", independent: bool = False) -> Iterator[None]:
    """Hold a transaction block from the first next() to the second, as a dependency of a web framework does."""
    with arena.transaction(independent=independent):
        arena.root[key] += 1
        yield


def savepoint(arena: Arena, key: str = "n") -> Iterator[None]:
    """Hold a savepoint likewise."""
    with arena.savepoint():
        arena.root[key] += 1
        yield


def edit(arena: Arena, key: str = "n") -> Iterator[None]:
    """Hold an edit of an Array likewise."""
    with arena.root["a"].edit() as items:
        arena.root[key] += 1
        items[0] = 1
        yield


def add(arena: Arena, key: str = "m") -> int:
    """Use the arena as anybody would."""
    with arena.transaction():
        arena.root[key] += 1
    return int(arena.root[key])


def is_free(arena: Arena, key: str = "m") -> None:
    """Everybody gets the lock, at once, and no transaction is current."""
    with pytest.raises(NoTransactionError):
        after_commit(print)
    before = arena.root[key]
    assert add(arena, key) == before + 1
    with ThreadPoolExecutor(1) as other:
        assert other.submit(add, arena, key).result() == before + 2
    arena.verify()


# -- out of order ---------------------------------------------------------------------------------------------------------


def test_blocks_of_two_arenas_first_in_first_out(arena: Arena, second: Arena) -> None:
    """The one left too early is a TransactionError and rolled back; the other commits."""
    with second.transaction():
        second.root["n"] = 0
    g, h = block(arena), block(second)
    next(g)
    next(h)
    with pytest.raises(TransactionError, match="left before"):
        next(g)
    next(h, None)
    del g, h
    _reuse_memory()
    assert (arena.root["n"], second.root["n"]) == (0, 1)
    is_free(arena)


def test_blocks_of_one_arena_first_in_first_out(arena: Arena) -> None:
    """The inner one is a part of the outer one: both are undone."""
    g, h = block(arena), block(arena)
    next(g)
    next(h)
    with pytest.raises(TransactionError):
        next(g)
    with pytest.raises(TransactionError):
        next(h, None)
        raise TransactionError  # it may find out that there is nothing left to end
    assert arena.root["n"] == 0
    is_free(arena)


def test_an_independent_block_left_last(arena: Arena) -> None:
    """The block around it is left first: that one is undone, and the independent one commits apart from it."""
    g, h = block(arena), block(arena, "m", independent=True)
    next(g)
    next(h)
    with pytest.raises(TransactionError):
        next(g)
    next(h, None)
    assert (arena.root["n"], arena.root["m"]) == (0, 1)
    is_free(arena)


def test_three_blocks_in_every_order(arena: Arena, second: Arena, new_name: Callable[[], str]) -> None:
    """Whatever the order, each block is either committed or refused and undone, and all arenas are free."""
    import itertools

    with Arena.temporary("16 MiB", name=new_name(), busy_timeout=0.5) as third:
        arenas = (arena, second, third)
        for each in arenas:
            with each.transaction():
                each.root.update(n=0, m=0)
        for order in itertools.permutations(range(3)):
            before = [each.root["n"] for each in arenas]
            held = [block(each) for each in arenas]
            for generator in held:
                next(generator)
            kept = []
            for i in order:
                try:
                    next(held[i], None)
                    kept.append(i)
                except TransactionError:
                    pass
            assert [each.root["n"] for each in arenas] == [n + (i in kept) for i, n in enumerate(before)], order
            assert kept == [i for k, i in enumerate(order) if all(j < i for j in order[k + 1 :])], order
            for each in arenas:
                is_free(each)


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("first", [savepoint, edit])
@pytest.mark.parametrize("second", [savepoint, edit])
def test_savepoints_left_out_of_order(arena: Arena, failing: bool, first: Any, second: Any) -> None:
    """A savepoint or an edit that ends before one inside it is a TransactionError; the transaction around them is undone."""
    with pytest.raises(TransactionError), arena.transaction():
        arena.root["m"] = 5
        g, h = first(arena), second(arena)
        next(g)
        next(h)
        with pytest.raises(TransactionError, match="out of order"):
            g.throw(KeyError) if failing else next(g)
        next(h, None)
    assert (arena.root["n"], arena.root["m"], arena.root["a"][0]) == (0, 0, 0)
    is_free(arena)


@pytest.mark.parametrize("kind", [savepoint, edit])
async def test_a_savepoint_left_in_another_step(arena: Arena, kind: Any) -> None:
    """An await while a generator holds a savepoint or an edit is refused; it can be left then, and the run is undone."""
    import asyncio

    async def handler() -> None:
        generator = kind(arena)
        next(generator)
        try:
            await asyncio.sleep(0)
        finally:
            next(generator, None)

    with pytest.raises(TransactionError):
        await arena.run(handler)
    assert arena.root["n"] == 0
    is_free(arena)


async def test_a_block_of_another_arena_left_in_another_step(arena: Arena, second: Arena) -> None:
    """It belongs to the step that entered it: an await undoes it, and leaving it says so."""
    import asyncio

    with second.transaction():
        second.root.update(n=0, m=0)

    async def handler() -> None:
        arena.root["n"] += 1
        generator = block(second)
        next(generator)
        await asyncio.sleep(0)
        with pytest.raises(TransactionError):
            next(generator, None)

    await arena.run(handler)
    assert (arena.root["n"], second.root["n"]) == (1, 0)
    is_free(arena)
    is_free(second)


def test_leaving_twice(arena: Arena) -> None:
    """The second time is a TransactionError, and what was committed stays."""
    held = arena.transaction()
    held.__enter__()
    arena.root["n"] += 1
    held.__exit__(None, None, None)
    with pytest.raises(TransactionError, match="twice"):
        held.__exit__(None, None, None)
    assert arena.root["n"] == 1
    is_free(arena)


# -- another thread -----------------------------------------------------------------------------------------------------------


def test_leaving_what_was_never_entered(arena: Arena) -> None:
    """A block that was not entered has nothing to end: an error by name, and the transaction around it goes on."""
    with pytest.raises(TransactionError, match="not been entered"):
        arena.transaction().__exit__(None, None, None)
    with arena.transaction():
        for block in (
            arena.transaction(),
            arena.transaction(independent=True),
            arena.savepoint(),
            arena.root["a"].edit(),
        ):
            with pytest.raises(TransactionError, match="not been entered"):
                block.__exit__(None, None, None)
        arena.root["x"] = 1
    assert arena.root["x"] == 1


def test_a_block_left_in_another_thread(arena: Arena, pools: Any) -> None:
    """It is a TransactionError that undoes it and gives the lock back, while the thread that entered it lives on."""
    one, two = pools
    held = block(arena)
    one.submit(next, held).result()
    with pytest.raises(TransactionError, match="another thread"):
        two.submit(next, held, None).result()
    assert arena.root["n"] == 0
    is_free(arena)
    assert one.submit(add, arena).result() == two.submit(add, arena).result() - 1
    assert one.submit(_outside).result()
    assert _in_another_process(arena) == arena.root["m"]


def test_an_exception_that_leaves_it_in_another_thread(arena: Arena, pools: Any) -> None:
    """The TransactionError has the exception as its cause."""
    one, two = pools
    held = block(arena)
    one.submit(next, held).result()
    with pytest.raises(TransactionError, match="another thread") as caught:
        two.submit(held.throw, KeyError("mine")).result()  # type: ignore[attr-defined]
    assert isinstance(caught.value.__cause__, KeyError)
    assert arena.root["n"] == 0
    is_free(arena)


def test_one_that_has_not_touched_the_arena(arena: Arena, pools: Any) -> None:
    """The rule is the same, and the thread that entered it has no transaction afterwards."""
    one, two = pools
    held = arena.transaction()
    one.submit(held.__enter__).result()
    with pytest.raises(TransactionError, match="another thread"):
        two.submit(held.__exit__, None, None, None).result()
    assert one.submit(_outside).result()
    assert one.submit(add, arena).result() == 1
    is_free(arena)


def test_blocks_of_two_threads_crossed(arena: Arena, second: Arena, pools: Any) -> None:
    """Each thread leaves what the other entered: both refused, both arenas free."""
    one, two = pools
    with second.transaction():
        second.root.update(n=0, m=0)
    g, h = block(arena), block(second)
    one.submit(next, g).result()
    two.submit(next, h).result()
    for pool, generator in ((one, h), (two, g)):
        with pytest.raises(TransactionError, match="another thread"):
            pool.submit(next, generator, None).result()
    assert (arena.root["n"], second.root["n"]) == (0, 0)
    for pool in pools:
        assert pool.submit(_outside).result()
    is_free(arena)
    is_free(second)


def test_a_block_inside_another_that_a_thread_leaves(arena: Arena, second: Arena, pools: Any) -> None:
    """The block around it, which its own thread still is in, goes on and commits."""
    one, two = pools
    with second.transaction():
        second.root["n"] = 0
    inner = block(second)
    entered, left = threading.Event(), threading.Event()

    def outer() -> None:
        with arena.transaction():
            arena.root["n"] += 1
            next(inner)
            entered.set()
            left.wait(10)
            arena.root["n"] += 1
            after_commit(lambda: None)

    future = one.submit(outer)
    entered.wait(10)
    with pytest.raises(TransactionError, match="another thread"):
        two.submit(next, inner, None).result()
    left.set()
    future.result()
    assert (arena.root["n"], second.root["n"]) == (2, 0)
    is_free(arena)


@pytest.mark.parametrize("around", [True, False], ids=["block", "handler"])
@pytest.mark.parametrize("kind", [savepoint, edit])
def test_a_savepoint_left_in_another_thread(arena: Arena, pools: Any, around: bool, kind: Any) -> None:
    """It is refused there; the transaction is out of the arena at once, and its own thread finds it undone."""
    import asyncio

    one, two = pools
    held = kind(arena)
    entered, left = threading.Event(), threading.Event()

    def body() -> None:
        arena.root["m"] = 5
        next(held)
        entered.set()
        left.wait(10)
        with pytest.raises(TransactionError):
            arena.root["m"] = 6

    def run() -> None:
        if around:
            with arena.transaction():
                body()
        else:

            async def handler() -> None:
                body()

            asyncio.run(arena.run(handler))  # type: ignore[arg-type]

    future = one.submit(run)
    entered.wait(10)
    with pytest.raises(TransactionError, match="out of order"):
        two.submit(next, held, None).result()
    assert (arena.root["n"], arena.root["m"]) == (0, 0)
    assert two.submit(add, arena).result() == 1
    left.set()
    with pytest.raises(TransactionError):
        future.result()
    is_free(arena)


def test_in_the_middle_of_an_operation_of_the_other_thread(arena: Arena, pools: Any) -> None:
    """It ends with the operation, which raises; the lock is given back then."""
    one, two = pools
    held = block(arena)
    inside, left = threading.Event(), threading.Event()

    class Slow(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            inside.set()
            left.wait(10)
            return super().__iter__()

    def work() -> None:
        next(held)
        arena.root["slow"] = {"items": Slow([1])}

    future = one.submit(work)
    inside.wait(10)
    with pytest.raises(TransactionError, match="another thread"):
        two.submit(next, held, None).result()
    left.set()
    with pytest.raises(TransactionError, match="ended its transaction"):
        future.result()
    assert arena.root["n"] == 0
    assert "slow" not in arena.root
    is_free(arena)
    assert one.submit(add, arena).result()


def test_the_thread_ends_with_the_block_open(arena: Arena) -> None:
    """Its step is undone, the arena is free, and leaving the block says that it is too late."""
    held = block(arena)
    thread = threading.Thread(target=next, args=(held,))
    thread.start()
    thread.join()
    is_free(arena)
    assert arena.root["n"] == 0
    with pytest.raises(TransactionError):
        next(held, None)
    is_free(arena)


# -- never left -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cycle", [False, True])
def test_a_block_that_is_never_left(arena: Arena, cycle: bool) -> None:
    """Once it is collected, it is undone, and the arena is free."""
    held: Any = arena.transaction()
    held.__enter__()
    arena.root["n"] += 1
    if cycle:
        ring: list[Any] = [held]
        ring.append(ring)
        del ring
    del held
    gc.collect()
    assert arena.root["n"] == 0
    is_free(arena)


@pytest.mark.parametrize("generator", [True, False])
def test_a_block_that_is_collected_in_another_thread(arena: Arena, pools: Any, generator: bool) -> None:
    """The same, wherever the collector runs, and while the thread that entered it lives on."""
    one, two = pools
    keep: list[Any] = [block(arena) if generator else arena.transaction()]

    def enter() -> None:
        if generator:
            next(keep[0])
        else:
            keep[0].__enter__()
            arena.root["n"] += 1

    def drop() -> None:
        keep.clear()
        gc.collect()

    one.submit(enter).result()
    two.submit(drop).result()
    assert arena.root["n"] == 0
    is_free(arena)
    assert one.submit(_outside).result()
    assert one.submit(add, arena).result()


def test_an_independent_block_that_is_never_left(arena: Arena) -> None:
    """The transaction around it goes on."""
    with arena.transaction():
        arena.root["n"] += 1
        held: Any = arena.transaction(independent=True)
        held.__enter__()
        arena.root["m"] += 1
        del held
        arena.root["n"] += 1
    assert (arena.root["n"], arena.root["m"]) == (2, 0)
    is_free(arena)


def _outside() -> bool:
    try:
        after_commit(print)
    except NoTransactionError:
        return True
    return False


def _in_another_process(arena: Arena) -> int:
    ending = in_child(lambda: add(arena))
    assert ending.returned, ending
    return int(ending.value)


def _reuse_memory() -> None:
    [bytes(range(256)) * i for i in range(500)]
