/* faults.h -- faults on demand, and the switches of test builds: fault.c, crashpoint.c. Part of recoverable.h. */
#ifndef RECOVERABLE_FAULTS_H
#define RECOVERABLE_FAULTS_H

/* What recoverable.faults is made of. Process state; off, it costs nothing. Points of a kind are counted from 1 while the
 * kind is watched. */

enum rcv_fault_kind {
    RCV_FAULT_PHASE = 1, /* a step, a commit or a recovery goes from one phase to the next */
    RCV_FAULT_ROOM,      /* room is asked for: a block of the heap, a record of the undo log */
    RCV_FAULT_STORE      /* any crash point; only test builds have them */
};
enum rcv_fault_action {
    RCV_FAULT_NONE = 0,
    RCV_FAULT_KILL, /* SIGKILL: the OOM killer's, too */
    RCV_FAULT_SEGV, /* a store to where nothing is mapped */
    RCV_FAULT_FULL  /* RCV_FAULT_ROOM only: no room is found */
};
RCV_API void        rcv_fault_stop(void);           /* nothing is armed or watched any more; what was counted stays */
RCV_API void        rcv_fault_clear(void);          /* the counts go, too */
RCV_API void        rcv_fault_watch(int kind);      /* count the points of that kind, from now */
RCV_API int         rcv_fault_at(int kind, uint64_t nth, int action); /* and do this at the nth; RCV_ERR_MISUSE: too many */
RCV_API int         rcv_fault_in_commit(uint64_t nth, int action);   /* die at the nth phase, or where a transaction ends before */
RCV_API uint64_t    rcv_fault_passed(int kind);
RCV_API const char *rcv_fault_name(int kind, uint64_t nth); /* of the nth that was passed; "": not kept */
RCV_API uint64_t    rcv_fault_struck(void);         /* faults that have happened in this process */
RCV_API void        rcv_fault_count(void);          /* … one more, made elsewhere */
RCV_API void        rcv_fault_die(int action);      /* now */

/* -- test builds only (-Dcrashpoints=true): crashpoint.c ----------------------------------------------------- */

RCV_API int         rcv_test_build(void);
RCV_API void        rcv_crash_at(uint64_t nth);   /* SIGKILL ourselves at the nth point from now; 0 = never */
RCV_API uint64_t    rcv_crash_count(void);        /* points passed since rcv_crash_at */
RCV_API void        rcv_crash_only(const char *name); /* count only the points of that name; NULL: all */
RCV_API const char *rcv_crash_last(void);         /* name of the last point passed */
RCV_API void        rcv_crash_hold(const char *name); /* who comes to that point waits there, as for a disk that hangs; NULL: go on */
RCV_API void        rcv_crash_note(char *buffer, size_t size); /* where the point that kills writes its name: shared memory */
enum rcv_fail_kind { RCV_FAIL_MALLOC = 1, RCV_FAIL_MPROTECT, RCV_FAIL_FALLOCATE, RCV_FAIL_MMAP, RCV_FAIL_HEAP, RCV_FAIL_WRITE, RCV_FAIL_SYNC };
RCV_API void     rcv_fail_at(int kind, uint64_t nth); /* the nth call of that kind from now fails once; 0 = never */
RCV_API uint64_t rcv_fail_count(int kind);
/* rcv_mirror_begin -- keep a copy of the arena that only its feed brings forward, and compare the two after each commit of this
 * process: a difference ends it. Under the lock. RCV_ERR_MISUSE: another build, or no feed. */
RCV_API int         rcv_mirror_begin(rcv_arena *a);
RCV_API const char *rcv_mutation(unsigned i);      /* name of the i-th defect that can be asked for; NULL: no more */
RCV_API int         rcv_mutate(const char *name);  /* have that defect from now, NULL: none. 1, or 0: no defect has that name */

#endif
