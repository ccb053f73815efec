/* test_journal.c -- the journal's files: what was appended is read again, whatever happens to the bytes of them. */
#include "journals.h"

#include <errno.h>

static void test_the_crc_is_castagnolis(void)
{
    uint8_t bytes[600];
    memset(bytes, 0, 32);
    CHECK(crc32c(0, "123456789", 9) == 0xe3069283u && crc32c(0, bytes, 32) == 0x8a9136aau); /* RFC 3720, B.4 */
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * i + 3);
    for (unsigned n = 0; n < sizeof bytes; n++) {
        CHECK(crc32c(n, bytes + n % 7, n - n % 7) == crc32c_by_tables(n, bytes + n % 7, n - n % 7));
        CHECK(crc32c(crc32c(0, bytes, n), bytes + n, sizeof bytes - n) == crc32c(0, bytes, sizeof bytes));
    }
}

static void test_what_is_appended_is_read_again(void)
{
    int         folder = new_folder(), rc;
    rcv_writer *w;
    unsigned    n = 0;
    rcv_journal_file_size(8192); /* a file has some ten batches */
    CHECK(rcv_writer_create(folder_path, &at_first, &w) == 0);
    for (unsigned life = 0; life < 20; life++) { /* one that is killed leaves no end */
        for (unsigned i = 0; i < 9; i++, n++)
            CHECK(append(w, n) == 0);
        if (life % 3 == 0)
            CHECK(rcv_writer_end(w) == 0);
        while (life % 2 == 0 && rcv_writer_prepare(w) == 1)
            ;
        rcv_writer_close(w);
        CHECK(read_all(folder, 1, 0, &rc) == n && rc == RCV_ERR_NOTFOUND); /* there is no further file */
        CHECK(rcv_writer_resume(folder_path, &w) == 0);
    }
    struct rcv_journal_start at;
    rcv_writer_get(w, &at);
    CHECK(at.seq == n && at.epoch == 3 && at.number > 10);
    rcv_writer_close(w);
    remove_folder(folder);
}

static void test_a_batch_larger_than_a_file_has_one_of_its_own(void)
{
    int                      folder = new_folder();
    static const uint8_t     large[40000];
    rcv_writer              *w;
    rcv_journal_file        *f;
    struct rcv_journal_batch b;
    rcv_journal_file_size(8192);
    CHECK(rcv_writer_create(folder_path, &at_first, &w) == 0 && append(w, 0) == 0);
    CHECK(rcv_writer_append(w, large, sizeof large, 2, 0, 1) == 0 && append(w, 2) == 0);
    rcv_writer_close(w);
    CHECK(rcv_journal_open_file(folder, "test", 2, &f) == 0 && rcv_journal_next(f, &b) == 1 && b.end - b.position == sizeof large);
    CHECK(memcmp(b.data, large, sizeof large) == 0);
    rcv_journal_close_file(f);
    remove_folder(folder);
}

static void test_the_next_file_is_made_of_a_spare_that_was_made_before(void)
{
    int         folder = new_folder();
    struct stat spare, file;
    rcv_writer *w;
    rcv_journal_file_size(1 << 20);
    CHECK(rcv_journal_spare(folder_path) == 0 && fstatat(folder, "spare", &spare, 0) == 0 && spare.st_size == 1 << 20);
    CHECK((uint64_t)spare.st_blocks * 512 >= 1 << 20); /* it holds zeros, not holes */
    CHECK(rcv_journal_spare(folder_path) == 0 && rcv_writer_create(folder_path, &at_first, &w) == 0);
    rcv_writer_close(w);
    CHECK(fstatat(folder, "journal-0000000000000001", &file, 0) == 0 && file.st_ino == spare.st_ino);
    CHECK(fstatat(folder, "spare", &spare, 0) != 0 && rcv_journal_spare("/nowhere") != 0);
    remove_folder(folder);
}

/* -- damage ------------------------------------------------------------------------------------------------------------- */

enum { SOME = 12 };
static uint8_t  whole[8192];
static uint64_t ends[SOME + 2], used; /* where each batch ends; how much of the file counts */
static int      damaged; /* the file */

static int one_file(bool ended)
{
    int         folder = new_folder();
    rcv_writer *w;
    rcv_journal_file *f;
    struct rcv_journal_batch b;
    rcv_journal_file_size(sizeof whole);
    CHECK(rcv_writer_create(folder_path, &at_first, &w) == 0);
    for (unsigned i = 0; i < SOME; i++)
        CHECK(rcv_writer_append(w, content(i, 8 + 8 * i), 8 + 8 * i, i, i, 1) == 0);
    if (ended)
        CHECK(rcv_writer_end(w) == 0);
    rcv_writer_close(w);
    CHECK(rcv_journal_open_file(folder, "test", 1, &f) == 0);
    for (unsigned i = 0; rcv_journal_next(f, &b) == 1; i++)
        ends[i] = rcv_journal_offset(f);
    used = rcv_journal_offset(f);
    rcv_journal_close_file(f);
    damaged = openat(folder, "journal-0000000000000001", O_RDWR | O_CLOEXEC);
    CHECK(damaged >= 0 && os_read(damaged, 0, whole, sizeof whole) == 0);
    return folder;
}

/* sound -- how many batches are read, and are what was written; *rc: how it ends. */
static unsigned sound(int folder, int *rc)
{
    rcv_journal_file        *f;
    struct rcv_journal_batch b;
    unsigned                 n = 0;
    if ((*rc = rcv_journal_open_file(folder, "test", 1, &f)) != 0)
        return 0;
    for (; (*rc = rcv_journal_next(f, &b)) == 1; n += b.records > 0)
        if (b.records > 0)
            CHECK(n < SOME && b.end - b.position == 8 + 8 * n && memcmp(b.data, content(n, 8 + 8 * n), 8 + 8 * n) == 0);
    rcv_journal_close_file(f);
    return n;
}

static unsigned batches_before(uint64_t at)
{
    unsigned n = 0;
    while (n < SOME && ends[n] <= at)
        n++;
    return n;
}

static void test_cut_at_every_byte(void)
{
    int folder = one_file(false), rc;
    for (uint64_t size = used; size-- > 0;) {
        CHECK(ftruncate(damaged, (off_t)size) == 0);
        unsigned n = sound(folder, &rc);
        CHECK(size < RCV_JOURNAL_HEAD ? rc == RCV_ERR_CORRUPT : rc == 0 && n == batches_before(size));
    }
    close(damaged);
    remove_folder(folder);
}

static void test_every_bit_flipped(void)
{
    int folder = one_file(true), rc;
    for (uint64_t bit = 0; bit < used * 8; bit++) {
        const uint64_t at = bit / 8;
        const uint8_t  other = (uint8_t)(whole[at] ^ 1u << bit % 8);
        if (at >= sizeof(struct rcv_journal_head) && at < RCV_JOURNAL_HEAD)
            continue; /* nothing is there */
        CHECK(pwrite(damaged, &other, 1, (off_t)at) == 1);
        unsigned n = sound(folder, &rc);
        if (at < RCV_JOURNAL_HEAD)
            CHECK(rc == RCV_ERR_CORRUPT || rc == RCV_ERR_VERSION);
        else if (at < ends[SOME - 1])
            CHECK(rc == RCV_ERR_CORRUPT && n == batches_before(at));
        else
            CHECK(rc == 0 && n == SOME); /* the mark of a clean end */
        CHECK(pwrite(damaged, &whole[at], 1, (off_t)at) == 1);
    }
    CHECK(sound(folder, &rc) == SOME && rc == 0);
    close(damaged);
    remove_folder(folder);
}

/* put_back -- a batch of the file again, its CRC right for what it says now. */
static void put_back(unsigned which, struct rcv_batch b)
{
    const uint64_t at = which == 0 ? RCV_JOURNAL_HEAD : ends[which - 1];
    b.crc = batch_crc(&b, whole + at + sizeof b);
    CHECK(pwrite(damaged, &b, sizeof b, (off_t)at) == sizeof b);
}

static void test_a_sound_batch_must_still_go_on_from_the_one_before(void)
{
    int              folder = one_file(true), rc;
    struct rcv_batch b, other;
    memcpy(&b, whole + ends[4], sizeof b); /* the sixth */
    put_back(5, b);
    CHECK(sound(folder, &rc) == SOME && rc == 0);
    for (unsigned what = 0; what < 5; what++) {
        other = b;
        other.chain += what == 0;
        other.position += what == 1 ? 8 : 0;
        other.offset += what == 2 ? 8 : 0;
        other.length -= what == 3 ? 4 : 0;
        other.number += what == 4;
        put_back(5, other);
        CHECK(sound(folder, &rc) == 5 && rc == RCV_ERR_CORRUPT);
    }
    close(damaged);
    remove_folder(folder);
}

static void test_what_another_life_has_left_does_not_count(void)
{
    int                      folder = one_file(true), rc;
    rcv_writer              *w;
    struct rcv_journal_start from = at_first;
    close(damaged);
    CHECK(renameat(folder, "journal-0000000000000001", folder, SPARE_NAME) == 0);
    from.number = 6; /* the next is 7 */
    CHECK(rcv_writer_create(folder_path, &from, &w) == 0);
    CHECK(read_all(folder, 7, 0, &rc) == 0 && rc == RCV_ERR_NOTFOUND);
    for (unsigned i = 0; i < 3; i++) {
        CHECK(append(w, i) == 0);
        CHECK(read_all(folder, 7, 0, &rc) == i + 1 && rc == RCV_ERR_NOTFOUND);
    }
    rcv_writer_close(w);
    remove_folder(folder);
}

/* -- a disk that fails ----------------------------------------------------------------------------------------------------- */

static void test_a_disk_that_is_full_for_a_while(void)
{
    int         folder = new_folder(), rc;
    rcv_writer *w;
    if (!rcv_test_build()) {
        puts("skip: needs -Dcrashpoints=true: a full disk");
        return;
    }
    rcv_journal_file_size(8192);
    CHECK(rcv_writer_create(folder_path, &at_first, &w) == 0);
    for (unsigned n = 0; n < 40; n++) {
        rcv_fail_at(RCV_FAIL_WRITE, 1);
        CHECK(append(w, n) == RCV_ERR_FULL);
        CHECK(append(w, n) == 0);
    }
    CHECK(read_all(folder, 1, 0, &rc) == 40 && rc == RCV_ERR_NOTFOUND);
    rcv_fail_at(RCV_FAIL_SYNC, 1);
    CHECK(append(w, 40) == RCV_ERR_OS && append(w, 40) == RCV_ERR_OS); /* never again */
    rcv_writer_close(w);
    remove_folder(folder);
}

/* others -- this program has closed all numbers, and opened another file by each of them. */
static void others(int file)
{
    for (int fd = 3; fd < 700; fd++)
        if (fd != file)
            CHECK(dup2(file, fd) == fd);
}

static void test_closed_descriptors(void)
{
    int         folder = new_folder(), rc;
    rcv_writer *w;
    char        name[80];
    struct stat st;
    snprintf(name, sizeof name, "%s.other", folder_path);
    CHECK(rcv_writer_create(folder_path, &at_first, &w) == 0);
    int other = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    for (unsigned n = 0; n < 30; n++) { /* some of them begin a file */
        others(other);
        CHECK(append(w, n) == 0);
        if (n % 4 == 0) {
            others(other);
            (void)rcv_writer_prepare(w);
        }
    }
    others(other);
    rcv_writer_close(w); /* and closes nothing of theirs */
    CHECK(fstat(650, &st) == 0 && st.st_size == 0);
    for (int fd = 3; fd < 700; fd++)
        close(fd);
    CHECK(unlink(name) == 0 && (folder = open(folder_path, O_RDONLY | O_DIRECTORY)) >= 0);
    CHECK(read_all(folder, 1, 0, &rc) == 30 && rc == RCV_ERR_NOTFOUND);
    remove_folder(folder);
}

/* test_a_number_that_is_another_files_by_now -- it is not taken for ours, nor closed. */
static void test_a_number_that_is_another_files_by_now(void)
{
    int           folder = new_folder();
    struct handle h = {.fd = -1};
    struct stat   ours, theirs, st;
    CHECK(handle_open(&h, folder, SPARE_NAME, O_RDWR | O_CREAT | O_NOFOLLOW) == 0 && fstat(h.fd, &ours) == 0);
    handle_close(&h);
    const int low = openat(folder, SPARE_NAME, O_RDWR), other = openat(folder, "other", O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(low >= 0 && other >= 0 && fstat(other, &theirs) == 0 && dup2(other, low) == low);
    CHECK(handle_keep(&h, low) == EBADF && h.fd == -1);
    CHECK(fstat(low, &st) == 0 && st.st_ino == theirs.st_ino); /* it is theirs, and open */
    close(low);
    CHECK(handle_keep(&h, low) == EBADF && h.fd == -1);
    const int again = handle_fd(&h, folder_path, SPARE_NAME);
    CHECK(again >= 0 && fstat(again, &st) == 0 && st.st_ino == ours.st_ino);
    handle_close(&h);
    close(other);
    CHECK(unlinkat(folder, "other", 0) == 0);
    remove_folder(folder);
}

static void test_a_file_that_was_removed(void)
{
    int         folder = new_folder();
    rcv_writer *w;
    CHECK(rcv_writer_create(folder_path, &at_first, &w) == 0 && append(w, 0) == 0);
    remove_files(folder);
    CHECK(append(w, 1) == RCV_ERR_NOTFOUND && append(w, 1) == RCV_ERR_OS);
    rcv_writer_close(w);
    CHECK(rcv_writer_resume(folder_path, &w) == RCV_ERR_NOTFOUND);
    remove_folder(folder);
}

static void test_a_file_that_was_removed_before_the_next_is_begun(void)
{
    int                  folder = new_folder();
    static const uint8_t large[40000]; /* does not fit into the file in use */
    struct stat          st;
    rcv_writer          *w;
    rcv_journal_file_size(8192);
    CHECK(rcv_writer_create(folder_path, &at_first, &w) == 0 && append(w, 0) == 0);
    remove_files(folder);
    CHECK(rcv_writer_append(w, large, sizeof large, 2, 0, 1) == RCV_ERR_NOTFOUND && append(w, 1) == RCV_ERR_OS);
    CHECK(fstatat(folder, "journal-0000000000000002", &st, 0) != 0);
    rcv_writer_close(w);
    remove_folder(folder);
}

int main(void)
{
    test_the_crc_is_castagnolis();
    test_what_is_appended_is_read_again();
    test_a_batch_larger_than_a_file_has_one_of_its_own();
    test_the_next_file_is_made_of_a_spare_that_was_made_before();
    test_cut_at_every_byte();
    test_every_bit_flipped();
    test_a_sound_batch_must_still_go_on_from_the_one_before();
    test_what_another_life_has_left_does_not_count();
    test_a_disk_that_is_full_for_a_while();
    test_closed_descriptors();
    test_a_number_that_is_another_files_by_now();
    test_a_file_that_was_removed();
    test_a_file_that_was_removed_before_the_next_is_begun();
    CHECKS_DONE();
}
