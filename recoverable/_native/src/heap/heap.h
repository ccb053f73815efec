/* heap.h -- the allocator: blocks for the life of a transaction, or of what it commits. */
#ifndef RCV_HEAP_H
#define RCV_HEAP_H

#include "segment/segment.h"

/* Blocks are handed out from chunks that this process has reserved, by process memory alone; the shared bitmaps change
 * only at commit. So an allocation needs no undo, and a dead process's are simply never marked. */

int  heap_open(rcv_arena *a);
void heap_close(rcv_arena *a);   /* returns reservations */
int  heap_format(rcv_arena *a);  /* a new segment: the table is zero; claims the first slice */
/* heap_reserve -- a block of at least `size` bytes, 16-aligned (page aligned in the array space), contents unspecified.
 * Pending until heap_commit_alloc + heap_settle, or heap_unreserve. Lock held. RCV_ERR_FULL. */
int  heap_reserve(rcv_arena *a, uint64_t size, unsigned space, rcv_off *out);
void heap_unreserve(rcv_arena *a, rcv_off off);    /* process memory only: no lock needed */
int  heap_commit_alloc(rcv_arena *a, rcv_off off); /* mark it in the shared table (undo-logged) */
int  heap_commit_free(rcv_arena *a, rcv_off off);  /* unmark it (undo-logged). RCV_ERR_CORRUPT if it was not allocated */
/* heap_chunk_taken -- the table's word at `off`, which was `was`, says now that an unused chunk has small blocks: then its bitmap, at
 * *chunk, was cleared without a log. */
bool heap_chunk_taken(const rcv_arena *a, rcv_off off, const uint8_t *was, rcv_off *chunk);
void heap_settle(rcv_arena *a, rcv_off off);       /* after PUBLISH: what heap_commit_alloc marked is no longer pending */
/* heap_block -- size of the block that starts at `off`, and whether it is marked or pending here. RCV_ERR_CORRUPT if no
 * block starts there. */
int  heap_block(rcv_arena *a, rcv_off off, uint64_t *size, bool *live);
bool heap_page_live(const rcv_arena *a, uint32_t page); /* a page of the data region that a committed array owns */
rcv_off heap_page_block(const rcv_arena *a, uint32_t page); /* where the array memory that the page lies in begins, or 0 */
void heap_boundary(rcv_arena *a);                       /* a step has ended (lock held, IDLE): claim ahead of need */
int  heap_return_dead(rcv_arena *a, uint64_t *chunks);  /* clear the owner words of dead processes */
bool heap_short(const rcv_arena *a);                    /* is nearly all of the ceiling claimed and in use? */
void heap_after_fork(rcv_arena *a);                     /* forget the parent's reservations (they are its own) */
void heap_stats(rcv_arena *a, struct rcv_stats *out);
/* heap_walk -- every marked block: fn(ctx, off, size); stops at non-zero. For check.c. */
int  heap_walk(rcv_arena *a, int (*fn)(void *ctx, rcv_off off, uint64_t size), void *ctx);

#endif
