# turn.pxi -- a place in the queue of those who have lost at a hot spot (src/segment/tickets.c). Part of runtime.pyx.

def unit_of(tuple spot not None) -> int:
    """Return what stands for a spot."""
    return rcv_unit(spot[0], spot[1], spot[2])


def whole_of(tuple spot not None) -> tuple[int, int, int]:
    """Return the spot that is all of its container: who uses any of that has read this."""
    return spot[0], RCV_UNIT_IDENTITY, 0


@cython.final
@cython.no_gc_clear # __dealloc__ needs what it holds
cdef class Turn:
    """A place in the queue of a spot, in all processes, from now on until drop(), or until nobody refers to it any more.

    Those that `recoverable.turns` has made are referred to there until they leave: nothing but leaving ends them.

    Args:
        arena: the arena.
        spot: where: the container's id, the kind and the argument of the unit, as a report has them.
        handler: whose it is, for those who wait behind it.
        patience: for how many seconds it waits for one that has its turn, if that is less than for others; 0: as long as they do.

    Attributes:
        unit: what stands for the spot.
        drawn: whether it got a place at all. False where there were none left.
        held: whether it has one now. False as well where others have waited for too long, and after drop().
    """
    cdef NativeArena arena
    cdef rcv_turn turn
    cdef readonly uint64_t unit
    cdef readonly bint drawn

    def __cinit__(self, NativeArena arena not None, tuple spot not None, str handler=None, double patience=0.0):
        if arena.closed:
            closed_error(arena)
        self.arena = arena
        self.unit = rcv_unit(spot[0], spot[1], spot[2])
        self.drawn = rcv_turn_draw(arena.a, self.unit, &self.turn) != 0
        self.turn.most = <uint64_t>(patience * 1e9)
        if self.drawn and handler is not None:
            rcv_turn_name(arena.a, &self.turn, PyUnicode_AsUTF8(handler))

    def __dealloc__(self):
        self.drop()

    @property
    def held(self) -> bool:
        return self.drawn and not self.arena.closed and rcv_turn_stands(self.arena.a, &self.turn) != 0

    def has_come(self) -> bool:
        """Return whether its turn has come; if not, ask again in some milliseconds."""
        return not self.drawn or self.arena.closed or rcv_turn_come(self.arena.a, &self.turn) != 0

    def is_behind_others(self) -> bool:
        """Return whether who stood before it at the last look is of another process."""
        return self.turn.elsewhere != 0

    def holder(self) -> tuple[int, str] | None:
        """Return process and handler of whose turn it is before this one's, as far as known: 0, "" where not; None: nobody's."""
        cdef rcv_holder holder
        if not self.drawn or self.arena.closed or not rcv_turn_holder(self.arena.a, &self.turn, &holder):
            return None
        return holder_of(&holder)

    cpdef drop(self):
        """Leave the queue; without effect after the first time."""
        if self.drawn and not self.arena.closed:
            rcv_turn_drop(self.arena.a, &self.turn)
