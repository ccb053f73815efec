/* policies.h -- policies for hot pages: their options, recordings, policies in shadow, profiles of handlers. Part of recoverable.h. */
#ifndef RECOVERABLE_POLICIES_H
#define RECOVERABLE_POLICIES_H

struct rcv_policy_option { /* of a working-set policy: which there are says wse_*.c, and the error for a wrong name */
    const char *name;
    double      value;
};

struct rcv_stream { /* a recorded run: which pages of the data region were written, step by step */
    uint32_t        n;     /* steps */
    const uint32_t *ends;  /* by step: where its pages end; those of the first begin at 0 */
    const uint32_t *pages; /* each page once a step */
};

struct rcv_recording {
    struct rcv_stream stream;    /* steps that had to do with raw writes, and the pages that each wrote */
    const uint32_t   *handlers;  /* by step: the number of its handler's name */
    const char       *names;     /* RCV_HANDLER_NAME bytes each, ended by 0 */
    uint32_t          n_names;
    uint32_t          truncated; /* 1: no memory, or too long: the steps after it are missing */
};
/* Recording costs some nanoseconds a written page. Like the other calls on an arena: not while another thread of this process
 * is inside a step. RCV_ERR_MISUSE: it is being recorded already. */
RCV_API int rcv_recording_begin(rcv_arena *a, int announced); /* `announced`: also the pages that announced writes change, and fresh memory */
RCV_API const struct rcv_recording *rcv_recording_get(rcv_arena *a); /* so far, until the next step; NULL: not recording */
RCV_API void rcv_recording_end(rcv_arena *a);

struct rcv_costs { /* nanoseconds, of one page */
    uint64_t trap, protect, compare, copy;
};

struct rcv_replay_setup {
    const char                     *policy;
    const struct rcv_policy_option *options;
    const struct rcv_stream        *stream;
    struct rcv_costs                costs;
    uint32_t                        n_options;
    uint32_t                        pages;       /* those of the stream are below it */
    uint32_t                        comparisons; /* of a hot page in a step: 2 while raw buffers live on between steps, else 1 */
    const uint32_t                 *handlers;    /* by step: a number; NULL: no profiles */
};

struct rcv_replay {
    uint64_t traps, protects, compares, copies;
    uint64_t vain;                  /* hot pages that a step did not write, over all steps */
    uint64_t promotions, demotions, most_hot;
    uint64_t ns;                    /* what that costs */
    uint64_t policy_ns;             /* measured: the policy itself and the counting */
    uint64_t captures, captures_vain; /* pages captured by profiles, and those that were not written */
};
/* rcv_replay -- let a policy decide on a recorded run. `by_step`: NULL, or room for each step's ns. */
RCV_API int rcv_replay(const struct rcv_replay_setup *setup, struct rcv_replay *out, uint64_t *by_step);
/* rcv_optimum -- what the run costs at best, in the same model; the policy and its options are not looked at. `on_demand`: where a
 * page becomes hot only at the end of a step that wrote it. */
RCV_API int rcv_optimum(const struct rcv_replay_setup *setup, int on_demand, uint64_t *ns);

struct rcv_profile { /* of a handler: capture.c, profile.c */
    char     handler[RCV_HANDLER_NAME], route[RCV_HANDLER_NAME];
    uint64_t step;                         /* which of its requests' steps, from 0; 3: all from there */
    uint64_t steps, known, predicted;      /* learned from; pages known, and those that the next one will capture */
    uint64_t captured, vain;               /* so far: pages made writable ahead, and those of them that were not written */
};
/* rcv_profiles -- keep profiles of handlers, or (0) forget them and capture nothing; negative: only tell. 1: they are kept. Not
 * while another thread is inside a step. RCV_ERR_FULL: no memory, and none are kept. */
RCV_API int rcv_profiles(rcv_arena *a, int on);
/* rcv_profiles_ask -- does it matter which route a transaction came by (rcv_txn_route)? Not where nothing can trap: containers
 * announce what they write. */
RCV_API int rcv_profiles_ask(const rcv_arena *a);
#define RCV_PROFILES 128u
RCV_API int rcv_profiles_read(rcv_arena *a, struct rcv_profile *out, int max); /* writes up to `max`, returns how many there are */

/* rcv_policy_default -- of a policy's option; RCV_ERR_MISUSE: there is no such policy or option, the text lists those there are. */
RCV_API int rcv_policy_default(const char *policy, const char *option, double *out);

#endif
