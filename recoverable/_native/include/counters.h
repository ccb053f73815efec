/* counters.h -- the one list of what an arena counts and measures: struct rcv_stats, its counterparts in ctypes, stats() and the
 * metrics are made of it. A new one costs a line here, the place that counts it, and its description in recoverable/reports.py.
 *
 *   X(name, type, metric, help)    GAUGE: goes up and down; TOTAL: only grows; HIDDEN: no metric, only in stats()
 */
#ifndef RCV_COUNTERS_H
#define RCV_COUNTERS_H

/* Of the segment: bytes of data (ceiling, backed, allocated, in reserved chunks), of tables, log and shadows; and what all processes
 * have counted. */
#define RCV_SEGMENT_STATS(X) \
    X(size, GAUGE, "size_bytes", "Ceiling of the data.")                                                               \
    X(claimed, GAUGE, "claimed_bytes", "Data that has memory behind it.")                                              \
    X(used, GAUGE, "used_bytes", "Data that is allocated.")                                                            \
    X(reserved, GAUGE, "reserved_bytes", "Data in chunks that processes have reserved for themselves.")                \
    X(undo_size, HIDDEN, "", "")                                                                                       \
    X(undo_claimed, HIDDEN, "", "")                                                                                    \
    X(shadow_claimed, HIDDEN, "", "")                                                                                  \
    X(overhead, GAUGE, "overhead_bytes", "Memory behind everything but data: tables, undo log, shadows.")              \
    X(commit_seq, TOTAL, "commits", "Commits since the arena was made, by all processes.")                             \
    X(recoveries, TOTAL, "recoveries", "Times that a dead process's step was undone, by all processes.")               \
    X(hot_pages, GAUGE, "hot_pages", "Pages in the estimated writable working set.")                                   \
    X(processes, GAUGE, "processes", "Processes that have the arena open.")                                            \
    X(orphaned, GAUGE, "orphaned", "1: its name no longer leads to it, so that others who open it get another arena.")

/* Counted by this process: struct rcv_counters. */
#define RCV_COUNTERS(X) \
    X(transactions, HIDDEN, "", "")                                                                                    \
    X(commits, HIDDEN, "", "")                                                                                         \
    X(rollbacks, HIDDEN, "", "")                                                                                       \
    X(conflicts, HIDDEN, "", "")                                                                                       \
    X(suspends, TOTAL, "suspended_steps", "Steps that ended in the middle of a transaction.")                          \
    X(traps, HIDDEN, "", "")                                                                                           \
    X(pages_compared, TOTAL, "pages_compared", "Hot pages compared with their shadows.")                               \
    X(pages_copied, TOTAL, "pages_copied", "Pages copied: pre-images and shadows.")                                    \
    X(promotions, TOTAL, "promotions", "Pages made hot.")                                                              \
    X(demotions, TOTAL, "demotions", "Hot pages given up.")                                                            \
    X(strays, TOTAL, "stray_writes", "Raw writes outside any step, taken back.")                                       \
    X(dooms, TOTAL, "doomed_steps", "Steps that ran out of memory in a raw write.")                                    \
    X(map_fallbacks, TOTAL, "map_fallbacks", "Times that the kernel had no map entries left.")                         \
    X(undo_bytes, TOTAL, "logged_bytes", "Bytes that were logged to be undone, heads not counted.")                    \
    X(undo_records, HIDDEN, "", "")                                                                                    \
    X(pages_captured, TOTAL, "pages_captured", "Pages made writable ahead, because their handler was going to write them.") \
    X(captured_in_vain, TOTAL, "pages_captured_in_vain", "Those of them that it did not write.")

/* Of this process at the moment; the costs are calibrated. */
#define RCV_PROCESS_STATS(X) \
    X(raw_buffers, GAUGE, "raw_buffers", "Raw buffers of this process: array views, memoryviews.")        \
    X(raw_views, GAUGE, "raw_views", "Mappings of this process that raw buffers lie in.")                 \
    X(in_flight, GAUGE, "transactions_in_flight", "Transactions of this process that have not ended.")    \
    X(profiles, GAUGE, "profiled_handlers", "Handlers of this process whose raw writes have a profile.")  \
    X(cost_trap_ns, HIDDEN, "", "")                                                                       \
    X(cost_protect_ns, HIDDEN, "", "")                                                                    \
    X(cost_compare_ns, HIDDEN, "", "")                                                                    \
    X(cost_copy_ns, HIDDEN, "", "")

#define RCV_STATS(X) RCV_SEGMENT_STATS(X) RCV_COUNTERS(X) RCV_PROCESS_STATS(X)

/* Counted of each handler, by all processes, in the segment: what `recoverable top` shows. X(NAME, name), and its meaning. */
#define RCV_BOARD_LIST(X) \
    X(COMMITS, commits)      /* runs that touched the arena and committed */ \
    X(ROLLBACKS, rollbacks)  /* … and did not, but for conflicts */ \
    X(CONFLICTS, conflicts)  /* runs that a conflict ended */ \
    X(TIMED, timed)          /* runs whose checkpoints were timed: a sample */ \
    X(NANOS, nanos)          /* what the checkpoints of those took */ \
    X(TRAPS, traps)          /* first raw writes that faulted */ \
    X(PAGES, pages)          /* pages that raw writes had changed when runs ended */ \
    X(UNDONE, undone_bytes)  /* bytes put back */ \
    X(HELD, held)            /* nanoseconds that the timed ones held the lock */

#endif
