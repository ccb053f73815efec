# cython: language_level=3, boundscheck=False, wraparound=False
"""Where in an arena something is, in words: the path of a container, the place of a conflict."""
from libc.stdint cimport uint32_t, uint64_t
from recoverable._native.codec cimport KeyBuffer, decode, decode_key, encode_key
from recoverable._native.core cimport *
from recoverable._native.runtime cimport Container, NativeArena, container_class, done, fail, gate, hold, unhold

cdef enum:
    DEEPEST = 100 # levels of nesting that a path shows
    SHOWN = 200 # characters of a key that a text shows


cdef object field_name(NativeArena arena, rcv_off record, uint64_t slot):
    """The name of a Record's field, or None where its schema does not tell."""
    cdef KeyBuffer k
    cdef rcv_value v
    cdef uint64_t schema
    cdef uint32_t fields
    if rcv_system(arena.a) == 0 or rcv_record_info(arena.a, record, &schema, &fields) != 0:
        return None
    kept = encode_key(arena, schema, &k)
    if rcv_dict_get(arena.a, NULL, rcv_system(arena.a), &k.key, &v) != 1:
        return None
    names = container_class(RCV_K_RECORD)._names_of(decode(arena, &v))
    return names[slot] if slot < len(names) else None


cdef object shown(const rcv_value *key):
    """The key's repr(), cut. What a key is must not stand in the way of saying where it is: never raises."""
    try:
        text = spelled(decode_key(key))
    except Exception: # of its own __repr__ or codec
        return "?"
    return text if len(text) <= SHOWN else text[:SHOWN - 1] + "\u2026"


cdef object spelled(object key):
    """repr(), but not of all that is too long to be shown; of an int of so many digits that Python refuses, hex()."""
    if type(key) is int and key.bit_length() > 4 * SHOWN:
        return hex(key)
    if type(key) is tuple:
        return f"({', '.join([spelled(item) for item in key[:SHOWN]])}{',' if len(key) == 1 else ''})"
    return repr(key[:SHOWN + 1] if type(key) in (str, bytes) else key)


def path_of(NativeArena arena not None, unsigned long long offset, unsigned long long id) -> str | None:
    """Return where a container hangs, as text: root["a"]["b"], root[...]["y"]["z"] in great depth; None when it is gone."""
    cdef rcv_txn *t
    cdef rcv_off parent = 0, slot = 0, at = offset, ignored = 0
    cdef uint64_t seen = 0
    cdef rcv_value key
    cdef int kind
    parts = []
    gate(arena, False, &t)
    cdef uint64_t held = hold(arena) # keys are decoded in between, by codecs
    try:
        for depth in range(DEEPEST):
            if at == rcv_root(arena.a):
                return "root" + "".join(reversed(parts))
            kind = rcv_container_slot(arena.a, at, &parent, &slot, &seen)
            if kind < 0 or (depth == 0 and seen != id) or parent == 0:
                return None
            kind = rcv_container_slot(arena.a, parent, &ignored, &ignored, &seen)
            if kind == RCV_K_DICT and rcv_dict_key_at(arena.a, slot, &key) == 0:
                parts.append(f"[{shown(&key)}]")
            elif kind == RCV_K_RECORD:
                parts.append(f".{field_name(arena, parent, slot) or '?'}")
            else:
                parts.append("[?]") # positions move: a List does not keep them
            at = parent
        return "root[...]" + "".join(reversed(parts))
    finally:
        try:
            unhold(arena, held)
        finally:
            done(arena, t)


cdef object place_in(NativeArena arena, int kind, rcv_off container, unsigned unit, uint64_t arg):
    """What part of a container of that kind a conflict unit is, or None."""
    cdef rcv_value key
    cdef rcv_array_info info
    if unit == RCV_UNIT_IDENTITY:
        return "the container itself"
    if unit == RCV_UNIT_BYTES and kind == RCV_K_ARRAY and rcv_array_get_info(arena.a, container, &info) == 0:
        return f"item {(arg - info.data) // info.itemsize}"
    if kind == RCV_K_LIST:
        if unit == RCV_UNIT_KEY:
            return f"items {arg * RCV_LIST_UNIT} to {arg * RCV_LIST_UNIT + RCV_LIST_UNIT - 1}"
        return {RCV_UNIT_MEMBERSHIP: "its length", RCV_UNIT_SHAPE: "its order", RCV_UNIT_CONTENT: "its items"}.get(unit)
    if kind == RCV_K_DEQUE:
        if unit == RCV_UNIT_SHAPE:
            return "the right end" if arg else "the left end"
        return "an item" if unit == RCV_UNIT_KEY else "its items"
    if kind == RCV_K_RECORD:
        return field_name(arena, container, arg) if unit == RCV_UNIT_KEY else "its fields"
    if kind == RCV_K_COUNTER:
        return "its value"
    if unit == RCV_UNIT_KEY and rcv_dict_key_of_hash(arena.a, container, arg, &key) == 1:
        return shown(&key)
    return {RCV_UNIT_MEMBERSHIP: "its keys", RCV_UNIT_CONTENT: "its values"}.get(unit)


def describe_conflict(NativeArena arena not None, report: dict) -> tuple[str | None, str | None]:
    """Return the path and the place in it (both text or None) of a report's conflict."""
    cdef rcv_txn *t
    cdef rcv_off ignored = 0
    cdef uint64_t id = 0
    cdef int kind
    unit, container, arg = report["conflict_kind"], report["conflict_container"], report["conflict_arg"]
    if unit == RCV_UNIT_PAGE:
        return None, f"page {arg} of array memory"
    if not container:
        return None, None
    path = path_of(arena, container, report["conflict_id"])
    gate(arena, False, &t)
    try:
        kind = rcv_container_slot(arena.a, container, &ignored, &ignored, &id)
        return path, place_in(arena, kind, container, unit, arg) if kind > 0 and id == report["conflict_id"] else None
    finally:
        done(arena, t)


def hot_spots(NativeArena arena not None) -> list[tuple[str | None, str | None, int]]:
    """Return path, place and count of where conflicts were lost, most frequent first."""
    cdef rcv_hotspot spots[RCV_HOTSPOTS]
    if arena.closed:
        return []
    cdef int n = rcv_hotspots(arena.a, spots, RCV_HOTSPOTS)
    found = []
    for i in range(n):
        where = {"conflict_kind": spots[i].kind, "conflict_container": spots[i].container, "conflict_id": spots[i].id,
                 "conflict_arg": spots[i].arg}
        found.append((*describe_conflict(arena, where), spots[i].count))
    found.sort(key=lambda spot: -spot[2])
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
