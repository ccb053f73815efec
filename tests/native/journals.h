/* journals.h -- a folder for a journal, records for it, and all that it says when it is read. */
#ifndef RCV_TEST_JOURNALS_H
#define RCV_TEST_JOURNALS_H

#include "check.h"
#include "journal/internal.h"

#include <fcntl.h>
#include <unistd.h>

static char folder_path[64];

/* new_folder -- in memory if there is such a place: no test here needs a real disk. Its descriptor. */
static int new_folder(void)
{
    snprintf(folder_path, sizeof folder_path, "%s/rcv-journal-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    CHECK(mkdtemp(folder_path) != NULL);
    int folder = open(folder_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(folder >= 0);
    return folder;
}

static void remove_files(int folder)
{
    char     name[JOURNAL_NAME];
    uint64_t number;
    while (journal_last(folder, &number) == 1) {
        journal_name(number, name);
        CHECK(unlinkat(folder, name, 0) == 0);
    }
    (void)unlinkat(folder, SPARE_NAME, 0);
}

static void remove_folder(int folder)
{
    remove_files(folder);
    CHECK(rmdir(folder_path) == 0);
    close(folder);
}

/* A batch for tests: `n` bytes that tell which one it is. */
static const uint8_t *content(unsigned which, uint64_t n)
{
    static uint8_t bytes[1 << 16];
    CHECK(n <= sizeof bytes);
    for (uint64_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(which * 131 + i * 7 + (i >> 8));
    return bytes;
}

static uint64_t size_of(unsigned which) { return 8 * (1 + (which * 37 + which * which) % 90); }

static inline int append(rcv_writer *w, unsigned which)
{
    return rcv_writer_append(w, content(which, size_of(which)), size_of(which), which + 1, 1000 + which, 1 + which % 3);
}

/* read_all -- how many batches there are, from batch `which` on, of all files from `number` on; *rc: how it ended. Each is what was
 * appended, in order. */
static inline unsigned read_all(int folder, uint64_t number, unsigned which, int *rc)
{
    const unsigned begun = which;
    for (uint64_t end = 0;; number++) {
        rcv_journal_file        *f;
        struct rcv_journal_start start;
        struct rcv_journal_batch b;
        if ((*rc = rcv_journal_open_file(folder, "test", number, &f)) != 0)
            break;
        rcv_journal_get_start(f, &start);
        CHECK(start.number == number && (end == 0 || start.position == end));
        end = start.position;
        while ((*rc = rcv_journal_next(f, &b)) == 1) {
            end = b.end;
            if (b.records == 0)
                continue;
            CHECK(b.end - b.position == size_of(which) && b.seq == which + 1 && b.at == 1000 + which && b.records == 1 + which % 3);
            CHECK(memcmp(b.data, content(which, size_of(which)), size_of(which)) == 0);
            which++;
        }
        rcv_journal_close_file(f);
        if (*rc < 0)
            break;
    }
    return which - begun;
}

static const struct rcv_journal_start at_first = {.id = {1, 2}, .epoch = 3, .position = 4096, .seq = 0};

#endif
