/* wse_plan.h -- the cheapest way through a recorded run, known afterwards. */
#ifndef RCV_WSE_PLAN_H
#define RCV_WSE_PLAN_H

#include "wse.h"

struct wse_plan {
    uint64_t  ns;    /* what the run costs at best */
    uint32_t  n;     /* boundaries */
    uint32_t *ends;  /* by boundary: where its switches end in `page`; those of the first begin at 0 */
    uint32_t *page;  /* PLAN_PROMOTE is set where it becomes hot at that boundary's end, else it becomes cold */
};
#define PLAN_PROMOTE 0x80000000u

/* wse_plan -- RCV_ERR_FULL: no memory; RCV_ERR_MISUSE: a page of the recording is not below `pages`, or its ends don't grow. */
int  wse_plan(struct wse_plan *out, const struct rcv_stream *s, uint32_t pages, const struct wse_costs *c, uint32_t comparisons,
              bool on_demand);
void wse_plan_free(struct wse_plan *plan);

#endif
