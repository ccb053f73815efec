# container.pxi -- handles on containers, and what is known of each kind. Part of runtime.pyx.
#
# A container answers for itself: everybody else asks its handle, by the methods of Container, and knows no kind of containers.
# A new one overrides what does not fit it, in its .pyx or .py, and is registered.

cdef class Container:
    """A handle: which container of which arena. Two handles of one container are equal."""

    cdef int materialize(self, NativeArena arena, rcv_txn *t, list made, rcv_off *out) except -1:
        """Make the container in the arena that this handle, not stored yet, describes; append self to `made`.

        A handle that is stored already gives where it is: the core refuses to store it twice.
        """
        if self.arena is not arena:
            raise _errors.TransactionError(
                "a container of another arena can't be stored here; nothing was changed: store a .copy() of it")
        cdef rcv_off parent, slot
        cdef uint64_t id
        cdef int rc = rcv_container_slot(arena.a, self.h.off, &parent, &slot, &id)
        if rc < 0:
            fail(rc)
        if id != self.h.id: # another one lies there now
            fail(rcv_handle_check(arena.a, t, &self.h))
        out[0] = self.h.off
        return 0

    cdef void discard(self) noexcept:
        """The operation that made it has failed: it is not stored after all."""
        self.arena = None

    cdef void rooted(self) noexcept:
        """The operation that made it has succeeded: what it was made from can go."""

    cpdef object to_python(self):
        """Return a plain deep copy."""
        raise NotImplementedError

    # What follows is asked under gate() and hold(), and answered without begin(): the container may be gone for whoever asks.

    cdef object class_at(self, NativeArena arena, const rcv_handle *h):
        """Which class stands for the container there. Asked of a handle on nothing that is of the class registered for its kind."""
        return type(self)

    cdef object slot_text(self, rcv_off slot):
        """How a path goes on to the container that lies in a slot of this one."""
        return "[?]"

    cdef object unit_text(self, unsigned unit, uint64_t arg):
        """What part of it a conflict unit is, in words, or None. Which container it is, RCV_UNIT_IDENTITY, is not asked."""
        return None

    @property
    def _arena(self):
        return self.arena

    def copy(self):
        """Return a container of the same kind that is not stored yet, with a deep copy of the content."""
        Py_EnterRecursiveCall(" while copying a container")
        try:
            stored = self.arena is not None # what is read out of an arena is the reader's own, or immutable
            return self._of_parts(self._extra(), {
                key: part.copy() if isinstance(part, Container) else part if stored else deepcopy(part)
                for key, part in self._parts().items()})
        finally:
            Py_LeaveRecursiveCall()

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce_ex__(self, protocol):
        raise TypeError(f"a {type(self).__name__} can't be pickled: it is a name for what lies in its arena; nothing was "
                        "changed: pickle its .to_python(), or attach to the arena where it is needed")

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    # What recoverable.faults compares and puts back: extra and parts. The answers here are a sequence's.

    _in_pieces = False # are its parts pieces of one run of bytes, by where they begin?

    def _extra(self):
        """Return what else it is made of than its parts: one that has another is no longer the same container."""
        return None

    def _parts(self):
        """Return its parts by key, name or position; those that are containers as live handles."""
        return dict(enumerate(self))

    @classmethod
    def _of_parts(cls, extra, parts):
        """Return something that is stored as a container of these parts."""
        return cls(parts.values())

    def _part(self, key):
        """Return one part."""
        return self[key]

    def _put_part(self, key, value):
        """Make one part what it was; called in the order of the keys."""
        self[key] = value

    def _drop_part(self, key):
        """Take out a part that was not there; called from the last one backwards."""
        del self[key]

    @staticmethod
    def _part_text(key):
        """Return how a path goes on to a part."""
        return f"[{spelled_key(key)}]"

    # What the history asks: see recoverable.history.

    cdef object slot_key(self, rcv_off slot, rcv_off child):
        """The key, field or position of the container at `child`, which lies in a slot; NotImplemented: the parts have to be looked
        through. Asked as slot_text()."""
        return NotImplemented

    def _unit_of(self, key):
        """Return the `arg` of a key's conflict unit; None where this kind has no units by key."""
        return None

    def _as_kept(self, key):
        """Return the key as it lies here: True, where 1 is asked for and True was put in."""
        return key

    def _written(self, before, units):
        """Return the keys of the parts that a commit may have changed, by its units as (kind, arg) and the container before it; None:
        by these it can't be told."""
        return None

    def _other_items(self, before, spans=None):
        """Return (key, before, after) of the items that another container of the kind has otherwise; None: compare the parts. `spans`:
        only of those that have some of these bytes, each from and up to."""
        return None

    @property
    def _memory(self):
        """Where the bytes lie in the segment that its parts are pieces of, from and up to. It never changes."""
        raise NotImplementedError

    # What `recoverable inspect` shows.

    def _about(self):
        """Return its type, for people; how many entries it has, None for what stands for one plain value; what else there is to say."""
        return type(self).__name__, len(self), ""

    def _entries(self, offset, limit):
        """Return a page of its entries, each with how a path goes on to it; None: they are not shown."""
        return [(f"[{i}]", self[i]) for i in range(offset, min(offset + limit, len(self)))]

    def _follow(self, step):
        """Go one step of a path, a recoverable.cli._inspect.Step: return what is there and how the step is written.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: there is nothing.
        """
        if step.kind == "field":
            raise AttributeError(step.key)
        key = step.literal
        return self[key], f"[{spelled_key(key)}]"


cdef list _kinds = [] # by number: a handle on nothing, of its class; or None
cdef list _plain = [] # plain class, what makes a container of one, container class


def register_container(cls, plain=None) -> None:
    """Say which class stands for containers of the kind `cls._kind` (enum rcv_container_kind).

    Args:
        cls: the class.
        plain: the plain Python classes whose objects are stored as one; what makes a container, not stored yet, of each.
    """
    _kinds.extend([None] * (cls._kind + 1 - len(_kinds)))
    _kinds[cls._kind] = cls.__new__(cls)
    _plain.extend([(kind, make, cls) for kind, make in (plain or {}).items()])


def kind_name(cls) -> str:
    """Return what containers of that class are called: those of a class derived from Record are Records."""
    return type(of_kind(cls._kind)).__name__


def plain_classes(cls) -> tuple:
    """Return the plain Python classes whose objects are stored as containers of that class."""
    return tuple([kind for kind, _, container in _plain if container is cls])


cdef Container unstored(object value):
    """The container, not stored yet, that a plain Python object is stored as; None: not one of these."""
    for kind, make, _ in _plain:
        if isinstance(value, kind):
            return make(value)
    return None


cdef inline object known_kind(int kind):
    return _kinds[kind] if 0 <= kind < len(_kinds) else None


cdef Container of_kind(int kind):
    """A handle on nothing, of the class that is registered for that kind."""
    known = known_kind(kind)
    if known is None:
        raise _errors.ArenaVersionError(
            f"the arena holds a container of kind {kind}, which this version does not know; nothing was changed: "
            "attach with the version that wrote it")
    return <Container>known


cdef Container handle_at(NativeArena arena, rcv_off off):
    """A handle on what lies there, to ask what its parts are called; None: nothing that could be asked."""
    cdef rcv_handle h
    cdef int kind = rcv_handle_open(arena.a, off, &h)
    known = known_kind(kind)
    return None if known is None else bind(arena, type(known), h)


cdef extern from *:
    """
    /* cls.__new__(cls), without asking the class for its method: each container that is read out of another makes a handle. */
    static inline PyObject *rcv_new(PyObject *cls, PyObject *nothing)
    {
        return ((PyTypeObject *)cls)->tp_new((PyTypeObject *)cls, nothing, NULL);
    }
    """
    object rcv_new(object cls, object nothing)


cdef tuple _nothing = ()


cdef Container bind(NativeArena arena, object cls, rcv_handle h):
    cdef Container c = <Container>rcv_new(cls, _nothing)
    c.arena = arena
    c.h = h
    return c
