# async_block.pxi -- what `async with arena.transaction():` does: begin a transaction that is found by its context, and end it. Part
# of runtime.pyx.
#
# It is native because it must not be half done: the handler of a signal may raise in any Python function, and then nobody would end
# what has begun. Where Python has to be called, what it leaves is looked at.


@cython.final
@cython.no_gc_clear # __dealloc__ needs what it holds
cdef class AsyncBlock:
    """One block. A block can't be run again, since Python gives nobody its code: where it has lost a conflict it raises
    ConflictError. So it has no privilege either, which is what the last of several runs has.

    Attributes:
        transaction: the block's own, once it has begun, or the one that it is a part of.
        abandoned: never: an `await` in it is fine.
    """
    cdef NativeArena arena
    cdef str handler
    cdef readonly Transaction transaction
    cdef Ambient mine # while it is current
    cdef object token
    cdef bint independent, part

    abandoned = False

    def __dealloc__(self):
        if self.mine is not None: # never left
            self.transaction.rollback()

    async def enter(self):
        """Begin one, or be a part of the one around."""
        loop = _running_loop()
        if loop is None:
            raise _errors.TransactionError(
                "async with arena.transaction() outside of an asyncio event loop, which is to end its steps. Nothing was "
                "begun. Use `with arena.transaction():`.")
        outer = nearest_on(self.arena)
        if outer is not None:
            self.refuse_inside(outer)
            self.transaction, self.part = outer, True
            return
        # It answers the request that the running code belongs to, if it does.
        self.transaction = begin_run(Transaction.__new__(Transaction), self.arena, self.handler, NULL, request_before((), None), None)
        cdef Ambient mine = Ambient.__new__(Ambient)
        mine.begin(self.transaction, loop)
        self.token = PyContextVar_Set(_ambient, mine)
        self.mine = mine

    cdef int refuse_inside(self, Transaction outer) except -1:
        if self.independent:
            raise _errors.TransactionError(
                "`async with arena.transaction(independent=True)` can't be inside a transaction. Nothing was begun. Use `with`, or await "
                "arena.run(fn, nested='independent').")
        if outer.one_step or outer.open_blocks:
            raise _errors.TransactionError(
                "`async with arena.transaction()` can't be inside a `with` block or a savepoint, which is a part of one step. Nothing was "
                "begun. Use `with` here, or make the one around `async with`.")
        return 0

    async def leave(self, error):
        """Commit what the block has done, or roll it back because of an error.

        Raises:
            ConflictError: it has read what another has changed since. It was rolled back.
        """
        cdef Transaction t = self.transaction
        if t is None:
            raise _errors.TransactionError("an `async with` block was left that has not been entered; nothing was changed")
        if self.part:
            self.leave_part(error)
            return
        failed = None
        try:
            if error is None and t.t != NULL and rcv_txn_state(t.t) == RCV_ACTIVE:
                failed = await _commit_waiting(t) if self.mine.is_busy() else self.commit_now()
                if failed is AGAIN:
                    failed = await _commit_waiting(t)
        except BaseException as stopped:
            error = stopped
            raise
        finally:
            self.end(error, failed)
        if t.hooks is None and not t.arena.gated and not t.arena.has_pending() and not (t.wrote and commit_is_told()):
            return
        try:
            await _settle_block(t)
        except BaseException as stopped:
            if t.hooks is not None and not isinstance(stopped, (_errors.RecoverableError, _cancelled_error, GeneratorExit)):
                await _settle_block(t) # a signal's handler has raised before they were called
            raise

    cdef int leave_part(self, object error) except -1:
        """The one around commits it, unless it is gone."""
        cdef Transaction t = self.transaction
        if error is None and t.t == NULL and t._ended is not COMMITTED:
            raise _errors.TransactionClosedError(
                f"a block that is a part of the transaction of {t.handler!r} was left after that was rolled back; nothing of the "
                "block was committed: await what is started in a transaction before that ends, or give it a transaction of its own")
        return 0

    cdef object commit_now(self):
        """What the commit fails with, if it does; AGAIN: it has to wait."""
        try:
            return None if self.transaction.commit_at_once() else AGAIN
        except BaseException as failed:
            return failed

    cdef int end(self, object error, object failed) except -1:
        """It is current no more, and over."""
        cdef Transaction t = self.transaction
        mine, self.mine = self.mine, None
        reset_if_here(_ambient, self.token)
        if get_value(_ambient) is mine: # in another context, which is a copy
            PyContextVar_Set(_ambient, None)
        if t._ended is COMMITTED:
            return 0
        try:
            _end_block(self, error, failed)
        except BaseException as stopped:
            t.rollback(stopped) # a signal's handler may have raised before it was
            raise
        return 0


cdef object AGAIN = object()
