# core.pxd -- recoverable.h as Cython sees it. The C header is the manual. What a container can do its own .pyx declares.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "recoverable.h" nogil:
    ctypedef uint64_t rcv_off
    ctypedef struct rcv_arena:
        pass
    ctypedef struct rcv_txn:
        pass

    enum:
        RCV_ERR_FULL
        RCV_ERR_CONFLICT
        RCV_ERR_CLOSED
        RCV_ERR_MISUSE
        RCV_ERR_AGAIN
        RCV_ERR_STRAY
        RCV_ERR_HELD
        RCV_ERR_FEED
        RCV_ERR_TOO_LONG
        RCV_ERR_ASK
    const char *rcv_error_text()
    int rcv_error_errno()

    int rcv_lock_wait_briefly(rcv_arena *a, bint patient)
    uint64_t rcv_lock_moves(const rcv_arena *a)
    bint rcv_lock_is_stuck(const rcv_arena *a)
    int rcv_lock_busy(rcv_arena *a)
    int rcv_lock_is_free(rcv_arena *a)
    void rcv_lock_waited(rcv_arena *a, uint64_t nanos)
    void rcv_use(rcv_arena *a)
    void rcv_unuse(rcv_arena *a)
    void rcv_wait_over(rcv_arena *a)
    int rcv_close(rcv_arena *a)
    int rcv_leave(rcv_arena *a)
    struct rcv_stream:
        uint32_t n
        const uint32_t *ends
        const uint32_t *pages
    struct rcv_recording:
        rcv_stream stream
        const uint32_t *handlers
        const char *names
        uint32_t n_names, truncated
    const rcv_recording *rcv_recording_get(rcv_arena *a)

    enum:
        RCV_TXN_ONE_STEP
        RCV_ACTIVE
        RCV_DOOMED
        RCV_COMMITTED
    int rcv_txn_new(rcv_arena *a, unsigned flags, const char *handler, rcv_txn **out)
    struct rcv_name:
        pass
    void rcv_name_set(rcv_name *to, const char *name)
    int rcv_txn_new_named(rcv_arena *a, unsigned flags, const rcv_name *handler, rcv_txn **out)
    void rcv_txn_free(rcv_txn *t)
    void rcv_txn_owned(rcv_txn *t, rcv_txn **place)
    int rcv_txn_forked(const rcv_txn *t)
    rcv_txn *rcv_txn_each(const rcv_arena *a, const rcv_txn *t)
    rcv_txn **rcv_txn_place(const rcv_txn *t)
    uint32_t rcv_txn_step(const rcv_txn *t)
    bint rcv_txn_stood_on(rcv_txn *t, uint64_t *seq, uint64_t *position)
    int rcv_own_threads(int change)
    uint64_t rcv_thread_ident(uint64_t number)
    int rcv_in_access(const rcv_arena *a)
    void rcv_own_threads_forked()
    int rcv_notes_listen(rcv_arena *a, int on)
    uint32_t rcv_notes_seen(const rcv_arena *a)
    void rcv_notes_await(rcv_arena *a, uint32_t seen)
    int rcv_notes_tell(rcv_arena *a, const char *const *texts, const uint32_t *sizes, uint32_t n, uint64_t in_all)
    void rcv_notes_ask(rcv_arena *a)
    int rcv_txn_state(const rcv_txn *t)
    int rcv_txn_touched(const rcv_txn *t)
    int rcv_txn_wrote(const rcv_txn *t)
    int rcv_txn_mounted(const rcv_txn *t)
    int rcv_txn_lock_held(const rcv_txn *t)
    int rcv_txn_mount(rcv_txn *t)
    int rcv_txn_suspend(rcv_txn *t)
    int rcv_txn_commit(rcv_txn *t)
    void rcv_txn_rollback(rcv_txn *t)
    void rcv_txn_doom(rcv_txn *t, int error)
    void rcv_txn_inside(rcv_txn *t, rcv_txn *parent)
    void rcv_txn_route(rcv_txn *t, const char *route)
    void rcv_txn_rename(rcv_txn *t, const char *handler)
    int rcv_profiles_ask(const rcv_arena *a)
    enum:
        RCV_PRIVILEGED
        RCV_AWAIT_PRIVILEGE
    int rcv_privilege_take(rcv_txn *t)
    int rcv_must_wait(rcv_txn *t)
    int rcv_privileged_here(const rcv_arena *a)
    double rcv_busy_timeout(const rcv_arena *a)
    struct rcv_turn:
        uint64_t most
        uint32_t elsewhere
    int rcv_turn_draw(rcv_arena *a, uint64_t unit, rcv_turn *turn)
    int rcv_turn_come(rcv_arena *a, rcv_turn *turn)
    void rcv_turn_drop(rcv_arena *a, rcv_turn *turn)
    int rcv_turn_queues(const rcv_arena *a, int *longest)
    struct rcv_holder:
        uint64_t pid
        char handler[40]
    int rcv_lock_holder(const rcv_arena *a, rcv_holder *out)
    int rcv_lock_wait(rcv_arena *a, rcv_holder *longest)
    int rcv_lock_wait_yielding(rcv_arena *a, rcv_holder *longest, int (*give_way)(rcv_arena *a) noexcept nogil)
    int rcv_privilege_holder(const rcv_arena *a, rcv_holder *out)
    int rcv_turn_holder(rcv_arena *a, const rcv_turn *turn, rcv_holder *out)
    void rcv_turn_name(rcv_arena *a, const rcv_turn *turn, const char *handler)
    uint64_t rcv_commits(const rcv_arena *a)
    uint64_t rcv_unit(uint64_t id, unsigned kind, uint64_t arg)
    int rcv_turn_stands(rcv_arena *a, const rcv_turn *turn)
    ctypedef struct rcv_hotspot "struct rcv_hotspot":
        uint64_t container, id, kind, arg, count, error
    enum:
        RCV_HOTSPOTS
    int rcv_measure(rcv_arena *a, rcv_off off, uint64_t *bytes)
    int rcv_spot_queue(const rcv_arena *a, const rcv_hotspot *spot)
    int rcv_hotspots(const rcv_arena *a, rcv_hotspot *out, int room)
    int rcv_raw_page(const rcv_arena *a, uint64_t page, rcv_off *out)
    void rcv_raw_viewed(rcv_arena *a, rcv_off array)
    int rcv_txn_doom_code(const rcv_txn *t)
    const char *rcv_doom_text(int code)
    void rcv_meter(int on)

    struct rcv_txn_report:
        uint64_t pages, bytes, records, micros, nanos, traps
        uint64_t conflict_container, conflict_id
        uint32_t conflict_kind
        uint64_t conflict_arg
        char winner[40]
    void rcv_txn_get_report(const rcv_txn *t, rcv_txn_report *out)

    struct rcv_mark:
        uint64_t undo_tail, intents, mounting, depth, held
    int rcv_savepoint(rcv_txn *t, rcv_mark *out)
    int rcv_rollback_to(rcv_txn *t, const rcv_mark *mark)
    int rcv_release(rcv_txn *t, const rcv_mark *mark)
    void rcv_lapse(rcv_txn *t)
    void rcv_op_begin(rcv_txn *t, rcv_mark *out)
    void rcv_op_fail(rcv_txn *t, const rcv_mark *mark)

    struct rcv_frame:
        rcv_txn **txn
        void *context
        void *owner
        void *keeper
        rcv_frame *below
        int left
    rcv_frame **rcv_current()
    void rcv_frame_init(rcv_frame *f, rcv_txn **txn, void *context, void *owner)
    void rcv_frame_leave(rcv_frame *f)
    uint64_t rcv_thread()
    int rcv_access(rcv_arena *a, void *context, int write, rcv_txn **out)
    int rcv_access_outside(rcv_arena *a, int write, rcv_txn **out)
    void rcv_ambient(rcv_txn *t)
    int rcv_ambient_take(rcv_txn *t)
    int rcv_ambient_yield(rcv_arena *a)
    int rcv_access_end(rcv_arena *a, rcv_txn *t)
    uint64_t rcv_hold(rcv_arena *a)
    int rcv_unhold(rcv_arena *a, uint64_t held)
    int rcv_held(const rcv_arena *a)
    int rcv_begin(rcv_arena *a, void *context, int write, rcv_handle *h, rcv_txn **out)

    enum:
        RCV_UNIT_KEY
        RCV_UNIT_IDENTITY
        RCV_UNIT_MEMBERSHIP
        RCV_UNIT_CONTENT
        RCV_UNIT_SHAPE
        RCV_UNIT_PAGE
        RCV_UNIT_BYTES

    struct rcv_handle:
        rcv_off off
        uint64_t id, serial, epoch
    struct rcv_value:
        uint8_t tag
        uint64_t word
        const uint8_t *ptr
        uint64_t len
    struct rcv_key:
        uint8_t tag, kind
        const uint8_t *ptr
        uint32_t len
        uint64_t hash

    void rcv_key_hash(const rcv_arena *a, rcv_key *key)
    rcv_off rcv_root(rcv_arena *a)
    int rcv_root_make(rcv_txn *t)
    int rcv_handle_open(rcv_arena *a, rcv_off off, rcv_handle *out)
    int rcv_handle_check(rcv_arena *a, rcv_txn *t, rcv_handle *h)
    int rcv_container_slot(rcv_arena *a, rcv_off off, rcv_off *parent, rcv_off *slot, uint64_t *id)

    rcv_off rcv_system(rcv_arena *a)
    int rcv_system_make(rcv_txn *t)

    void *rcv_tracked(rcv_arena *a, rcv_off off)
    struct rcv_raw:
        void *at
        void *view
    int rcv_raw_acquire(rcv_txn *t, rcv_off off, rcv_raw *out)
    void rcv_raw_release(rcv_arena *a, rcv_raw *raw)
    void rcv_raw_threads(rcv_arena *a)
    uint64_t rcv_raw_count(const rcv_arena *a)
    int rcv_pending(rcv_arena *a)
    int rcv_edit(rcv_txn *t, rcv_off array, uint64_t at, uint64_t len, rcv_mark *out)

# Of layout.h: the tags of values.
cdef extern from "../src/segment/layout.h" nogil:
    enum:
        RCV_T_NONE
        RCV_T_FALSE
        RCV_T_TRUE
        RCV_T_INT
        RCV_T_FLOAT
        RCV_T_STR
        RCV_T_BYTES
        RCV_T_BIGINT
        RCV_T_CUSTOM
        RCV_T_REF

cdef extern from "feed.h" nogil:
    bint rcv_has_feed(const rcv_arena *a)
    void rcv_txn_name_request(rcv_txn *t, const char *id)
    uint64_t rcv_txn_position(const rcv_txn *t)
    bint rcv_feed_room(const rcv_txn *t)
    uint64_t rcv_feed_ticket(const rcv_txn *t)
    void rcv_feed_alone(rcv_txn *t)
    void rcv_feed_insist(rcv_txn *t)
