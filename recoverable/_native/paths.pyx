# cython: language_level=3, boundscheck=False, wraparound=False
"""Where in an arena something is, in words: the path of a container, the place of a conflict."""
from libc.stdint cimport uint64_t
from recoverable._native.core cimport *
from recoverable._native.runtime cimport Container, NativeArena, done, fail, gate, handle_at, hold, may_look, unhold

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
        where = {"conflict_kind": spots[i].kind, "conflict_container": spots[i].container, "conflict_id": spots[i].id,
                 "conflict_arg": spots[i].arg}
        found.append((*describe_conflict(arena, where, stands=False), spots[i].count, spots[i].error, rcv_spot_queue(arena.a, &spots[i])))
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
