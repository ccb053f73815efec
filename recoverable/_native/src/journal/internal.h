/* internal.h -- what the journal's files of C have for each other. The interface: include/journal.h. */
#ifndef RCV_JOURNAL_INTERNAL_H
#define RCV_JOURNAL_INTERNAL_H

#include "base/base.h"
#include "format.h"
#include "journal.h"

#include <limits.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/uio.h>

/* -- crc32c.c -------------------------------------------------------------------------------------------------------- */

uint32_t crc32c(uint32_t before, const void *bytes, size_t n);
uint32_t crc32c_by_tables(uint32_t before, const void *bytes, size_t n); /* for a test */

/* -- lock.c ---------------------------------------------------------------------------------------------------------------- */

void journal_touch(const char *where); /* whose lock it is still writes there */

/* -- handle.c --------------------------------------------------------------------------------------------------------- */

#define CLOSED 16u /* tries where the program closes a descriptor between the look at it and its use */
struct handle {
    int   fd; /* -1: none */
    dev_t device;
    ino_t inode;
};
int  handle_keep(struct handle *h, int fd);
int  handle_open(struct handle *h, int folder, const char *name, int flags);
int  handle_fd(struct handle *h, const char *folder, const char *name); /* or -errno */
bool handle_gone(const struct handle *h, const char *folder, const char *name); /* does that path lead elsewhere, or nowhere? */
void handle_close(struct handle *h);

/* -- pipes.c ----------------------------------------------------------------------------------------------------------- */

#define PIPES 64u
struct pipes {
    pthread_mutex_t  lock;
    _Atomic uint32_t wanted; /* how many there are */
    struct handle    each[PIPES];
};
void pipes_begin(struct pipes *p);
void pipes_end(struct pipes *p);
void pipes_ring(struct pipes *p);
int  pipes_enter(struct pipes *p, int fd); /* 1: it is new. 0: it was there. RCV_ERR_FULL: there are too many */
void pipes_leave(struct pipes *p, int fd, dev_t device, ino_t inode); /* as fstat() said of it */
static inline bool pipes_wanted(struct pipes *p) { return atomic_load(&p->wanted) != 0; }

/* -- spare.c ------------------------------------------------------------------------------------------------------------- */

#define SPARE_NAME "spare"
struct spare {
    struct handle file; /* none: not looked at yet */
    uint64_t      made; /* bytes of it that are there */
    bool          ready, given_up;
};
void spare_begin(struct spare *s);
int  spare_make(struct spare *s, int folder, const char *where);
int  spare_take(struct spare *s, int folder, const char *where, uint64_t least, uint64_t *size); /* 0 or errno */
void spare_end(struct spare *s);

/* -- disk.c: system calls on files; 0 or errno -------------------------------------------------------------------------- */

int  disk_write(int fd, uint64_t off, const struct iovec *what, int n); /* all of it */
int  disk_sync(int fd);
int  disk_sync_folder(int folder);
int  disk_rename(int folder, const char *from, const char *to);

/* -- file.c ---------------------------------------------------------------------------------------------------------------- */

#define JOURNAL_NAME 32u
struct rcv_journal_file {
    struct handle file;
    char     where[PATH_MAX], name[JOURNAL_NAME];
    struct rcv_journal_start start;
    uint64_t size;   /* of the file, as it is */
    uint64_t offset; /* of the next batch */
    uint64_t position;
    uint32_t chain;
    uint64_t torn;
    uint8_t *buffer; /* has the file's bytes from `from` on */
    uint64_t from, have, room;
};
void     journal_name(uint64_t number, char *out); /* JOURNAL_NAME bytes */
uint32_t head_crc(const struct rcv_journal_head *head);
uint32_t batch_crc(const struct rcv_batch *batch, const void *records);
int      journal_last(int folder, uint64_t *number); /* 0: none, 1, or -errno */
int      journal_raise(int err, const char *where, const char *name, const char *doing); /* RCV_ERR_FULL: it may pass, as on a full disk; else _OS */

#endif
