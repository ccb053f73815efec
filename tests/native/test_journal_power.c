/* test_journal_power.c -- the power goes: of what was written since the last fdatasync, any part may have reached the disk.
 *
 * Another disk lies under the journal here (instead of disk.c): it does what it is asked to, and keeps a list of it. Afterwards the
 * folder is made as a disk may have it at a random moment: what was flushed, and of the rest a random part, sector by sector;
 * renames that no fsync of the folder came after have happened, or not. Then it is read: each batch that was told to be durable is
 * there, as it was written, and nothing else is; and the journal goes on.
 */
#include "journals.h"

#include <errno.h>
#include <stdio.h>

enum { OPS = 4096, FILES = 64, SECTOR = 512, SIZE = 8192 };
enum kind { WRITE, SYNC, RENAME, SYNC_FOLDER };

static struct op {
    enum kind kind;
    ino_t     file;
    uint64_t  off, len;
    uint8_t  *bytes;
    char      name[JOURNAL_NAME];
} ops[OPS];
static unsigned n_ops;

static uint64_t seed;
static uint64_t chance(uint64_t most)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (seed >> 33) % most;
}

static ino_t inode(int fd)
{
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    return st.st_ino;
}

static struct op *record(enum kind kind, ino_t file)
{
    CHECK(n_ops < OPS);
    ops[n_ops] = (struct op){.kind = kind, .file = file};
    return &ops[n_ops++];
}

/* -- the disk ------------------------------------------------------------------------------------------------------------- */

int disk_write(int fd, uint64_t off, const struct iovec *what, int n)
{
    for (int i = 0; i < n; i++) {
        struct op *op = record(WRITE, inode(fd));
        op->off = off;
        op->len = what[i].iov_len;
        op->bytes = malloc(op->len + 1);
        memcpy(op->bytes, what[i].iov_base, op->len);
        CHECK(pwrite(fd, what[i].iov_base, op->len, (off_t)off) == (ssize_t)op->len);
        off += op->len;
    }
    return 0;
}

int disk_sync(int fd)
{
    record(SYNC, inode(fd));
    return 0;
}

int disk_sync_folder(int folder)
{
    (void)folder;
    record(SYNC_FOLDER, 0);
    return 0;
}

int disk_rename(int folder, const char *from, const char *to)
{
    struct stat st;
    CHECK(fstatat(folder, from, &st, 0) == 0);
    struct op *op = record(RENAME, st.st_ino);
    snprintf(op->name, sizeof op->name, "%s", to);
    return renameat(folder, from, folder, to) == 0 ? 0 : errno;
}

/* -- after the power has gone ----------------------------------------------------------------------------------------------- */

static bool flushed(unsigned i, unsigned end)
{
    for (unsigned k = i + 1; k < end; k++)
        if (ops[i].kind == RENAME ? ops[k].kind == SYNC_FOLDER : ops[k].kind == SYNC && ops[k].file == ops[i].file)
            return true;
    return false;
}

/* put -- of one write, what has reached the disk. */
static void put(uint8_t *file, const struct op *op, bool all)
{
    for (uint64_t at = op->off; at < op->off + op->len;) {
        uint64_t next = (at / SECTOR + 1) * SECTOR;
        next = next < op->off + op->len ? next : op->off + op->len;
        CHECK(next <= 2 * SIZE);
        if (all || chance(2) == 0)
            memcpy(file + at, op->bytes + (at - op->off), next - at);
        at = next;
    }
}

/* come_back -- a folder as the disk has it after the first `end` operations. */
static void come_back(int folder, unsigned end)
{
    for (unsigned r = 0; r < end; r++) {
        if (ops[r].kind != RENAME)
            continue;
        const bool named = flushed(r, end) || chance(2) == 0;
        uint8_t    file[2 * SIZE] = {0};
        for (unsigned i = 0; i < end; i++)
            if (ops[i].kind == WRITE && ops[i].file == ops[r].file)
                put(file, &ops[i], flushed(i, end));
        int fd = openat(folder, named ? ops[r].name : SPARE_NAME, O_RDWR | O_CREAT | O_TRUNC, 0600);
        CHECK(fd >= 0 && pwrite(fd, file, SIZE, 0) == SIZE);
        close(fd);
    }
}

static void forget(void)
{
    for (unsigned i = 0; i < n_ops; i++)
        free(ops[i].bytes);
    n_ops = 0;
}

static void one_run(uint64_t number)
{
    int         before = new_folder(), after, rc;
    unsigned    done[OPS], n = 0, appended = 8 + (unsigned)chance(40);
    rcv_writer *w;
    char        path[sizeof folder_path];
    memcpy(path, folder_path, sizeof path);
    CHECK(rcv_writer_create(folder_path, &at_first, &w) == 0);
    for (; n < appended; n++) {
        while (chance(2) == 0 && rcv_writer_prepare(w) == 1)
            ;
        CHECK(append(w, n) == 0);
        done[n] = n_ops;
    }
    const unsigned created = 3, end = created + 1 + (unsigned)chance(n_ops - created);
    rcv_writer_close(w);
    remove_folder(before);
    unsigned told = 0;
    while (told < n && done[told] <= end)
        told++;
    after = new_folder();
    come_back(after, end);
    forget();
    unsigned found = read_all(after, 1, 0, &rc);
    if (rc != RCV_ERR_NOTFOUND || found < told || found > told + 1) {
        fprintf(stderr, "run %llu: %u of %u batches, told %u: %s\n", (unsigned long long)number, found, n, told, rcv_error_text());
        exit(1);
    }
    if (rcv_writer_resume(folder_path, &w) == 0) { /* and it goes on */
        for (unsigned i = 0; i < 5; i++)
            CHECK(append(w, found + i) == 0);
        rcv_writer_close(w);
        CHECK(read_all(after, 1, 0, &rc) == found + 5 && rc == RCV_ERR_NOTFOUND);
    } else {
        CHECK(told == 0);
    }
    forget();
    remove_folder(after);
}

int main(void)
{
    const char *runs = getenv("RECOVERABLE_POWER_LOSSES");
    seed = 1;
    rcv_journal_file_size(SIZE);
    for (uint64_t i = 0, n = runs != NULL ? strtoull(runs, NULL, 10) : 400; i < n; i++)
        one_run(i);
    CHECKS_DONE();
}
