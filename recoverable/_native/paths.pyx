# cython: language_level=3, boundscheck=False, wraparound=False
"""Where in an arena something is, in words: the path of a container, the place of a conflict."""
from libc.stdint cimport uint64_t
from recoverable._native.core cimport *
from recoverable._native.runtime cimport Container, NativeArena, bind, done, fail, gate, handle_at, hold, may_look, unhold

cdef enum:
    DEEPEST = 100 # levels of nesting that a path shows


def path_of(NativeArena arena not None, unsigned long long offset, unsigned long long id) -> str | None:
    """Return where a container hangs, as text: root["a"]["b"], root[...]["y"]["z"] in great depth; None when it is gone."""
    cdef rcv_txn *t
    cdef rcv_off parent = 0, slot = 0, at = offset
    cdef uint64_t seen = 0
    cdef Container holder
    parts = []
    gate(arena, False, &t)
    cdef uint64_t held = hold(arena) # keys are decoded in between, by codecs
    try:
        for depth in range(DEEPEST):
            if at == rcv_root(arena.a):
                return "root" + "".join(reversed(parts))
            if rcv_container_slot(arena.a, at, &parent, &slot, &seen) < 0 or (depth == 0 and seen != id) or parent == 0:
                return None
            holder = handle_at(arena, parent)
            parts.append("[?]" if holder is None else holder.slot_text(slot))
            at = parent
        return "root[...]" + "".join(reversed(parts))
    finally:
        try:
            unhold(arena, held)
        finally:
            done(arena, t)


def describe_conflict(NativeArena arena not None, report: dict, bint stands=True) -> tuple[str | None, str | None]:
    """Return the path and the place in it (both text or None) of a report's conflict. None also where the lock is stuck: in an
    event loop, and elsewhere unless it `stands` for it."""
    cdef rcv_txn *t
    cdef Container lost
    unit, container, arg = report["conflict_kind"], report["conflict_container"], report["conflict_arg"]
    if unit == RCV_UNIT_PAGE:
        return None, f"page {arg} of array memory"
    if not container or not may_look(arena, stands):
        return None, None
    path = path_of(arena, container, report["conflict_id"])
    gate(arena, False, &t)
    cdef uint64_t held = hold(arena)
    try:
        lost = handle_at(arena, container)
        if lost is None or lost.h.id != report["conflict_id"]:
            return path, None
        return path, "the container itself" if unit == RCV_UNIT_IDENTITY else lost.unit_text(unit, arg)
    finally:
        try:
            unhold(arena, held)
        finally:
            done(arena, t)


def hot_spots(NativeArena arena not None) -> list[tuple[str | None, str | None, int, int, int]]:
    """Return where conflicts were lost, those places that stand out: path, place, count, its error and the length of the queue
    there; certainly most frequent first. Path and place are None where the lock is stuck."""
    cdef rcv_hotspot spots[RCV_HOTSPOTS]
    if arena.closed:
        return []
    cdef int n = rcv_hotspots(arena.a, spots, RCV_HOTSPOTS)
    found = []
    for i in range(n):
        queue = 0 if arena.closed else rcv_spot_queue(arena.a, &spots[i])
        where = {"conflict_kind": spots[i].kind, "conflict_container": spots[i].container, "conflict_id": spots[i].id,
                 "conflict_arg": spots[i].arg}
        found.append((*describe_conflict(arena, where, stands=False), spots[i].count, spots[i].error, queue))
    found.sort(key=lambda spot: spot[3] - spot[2])
    return found


def memory_of(Container container not None) -> int:
    """Return the bytes that a container and all that it holds take. Outside transactions."""
    cdef rcv_txn *t
    cdef uint64_t size = 0
    cdef int rc
    gate(container.arena, False, &t)
    try:
        rc = rcv_measure(container.arena.a, container.h.off, &size)
    finally:
        done(container.arena, t)
    if rc:
        fail(rc)
    return size


# -- for the history: from units to containers and keys, and back ------------------------------------------------------------

#: Kinds of units, as a commit has them.
KEY, IDENTITY, PAGE = RCV_UNIT_KEY, RCV_UNIT_IDENTITY, RCV_UNIT_PAGE


def number_of(Container container not None) -> int:
    """Return its number, which no other container ever gets."""
    return container.h.id


def offset_of(Container container not None) -> int:
    """Return where it lies in its segment."""
    return container.h.off


cdef Container of_its_class(NativeArena arena, Container found):
    """A handle as a read gives it: of a Record's own class."""
    return None if found is None else bind(arena, found.class_at(arena, &found.h), found.h)


def container_at(NativeArena arena not None, unsigned long long offset, unsigned long long id) -> Container | None:
    """Return the container of that number, if it lies there, and is not on its way to be reclaimed."""
    cdef rcv_txn *t
    cdef Container found
    if not offset:
        return None
    gate(arena, False, &t)
    try:
        found = handle_at(arena, offset)
        if found is None or found.h.id != id or rcv_handle_check(arena.a, t, &found.h) != 0:
            return None
        return of_its_class(arena, found)
    finally:
        done(arena, t)


def page_at(NativeArena arena not None, unsigned long long page) -> int | None:
    """Return where a page begins, by its number as a unit has it; None: it is no Array's."""
    cdef rcv_txn *t
    cdef rcv_off at = 0
    gate(arena, False, &t)
    cdef bint live = rcv_raw_page(arena.a, page, &at)
    done(arena, t)
    return at if live else None


def parent_of(Container container not None) -> Container | None:
    """Return the container that it is stored in; None: it is the root, or is gone."""
    cdef rcv_txn *t
    cdef rcv_off parent = 0, slot = 0
    cdef uint64_t id = 0
    cdef NativeArena arena = container.arena
    gate(arena, False, &t)
    try:
        if container.h.off == rcv_root(arena.a) or rcv_container_slot(arena.a, container.h.off, &parent, &slot, &id) < 0:
            return None
        return of_its_class(arena, handle_at(arena, parent)) if parent != 0 and id == container.h.id else None
    finally:
        done(arena, t)


def key_in(Container parent not None, Container child not None):
    """Return the key that a container has in the one that it is stored in; NotImplemented: its parts have to be looked through."""
    cdef rcv_txn *t
    cdef rcv_off holder = 0, slot = 0
    cdef uint64_t id = 0
    gate(parent.arena, False, &t)
    cdef uint64_t held = hold(parent.arena)
    try:
        if rcv_container_slot(parent.arena.a, child.h.off, &holder, &slot, &id) < 0:
            return NotImplemented
        return parent.slot_key(slot, child.h.off)
    finally:
        try:
            unhold(parent.arena, held)
        finally:
            done(parent.arena, t)
