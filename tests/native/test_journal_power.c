/* test_journal_power.c -- the power goes: of what was written since the last fdatasync, any part may have reached the disk.
 *
 * Another disk lies under the journal here (instead of disk.c). The files in the folder are the page cache: what every process sees,
 * whatever has become of the one that wrote it. Beside them is what the disk has: sectors that were flushed, names that a fsync of
 * the folder came after. At a random moment the power goes; then the folder is made again as a disk may have it, with a random part of
 * what was not flushed.
 *
 * Up to then the flusher's own functions serve a segment, and die in the middle of what they do: others take over, start again, or
 * restore the state where the segment is gone, too. Who dies while he waits for a disk that fails has its error to himself: the pages
 * are clean then, and not on the disk. Some disks are full for a moment; and files that nobody needs any more serve again.
 *
 * What any of them has called durable, by the sink's cursor, is on the disk afterwards, as it was committed; nothing else is there; and the
 * journal goes on.
 */
#include "journal/flusher.c"
#include "journals.h"
#include "scratch.h"

enum { SECTOR = 512, SIZE = 8192, SECTORS = 2 * SIZE / SECTOR, FILES = 128, PENDING = 4096, LINE = 4096 };

static uint64_t dice;
static uint64_t chance(uint64_t most)
{
    dice = dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (dice >> 33) % most;
}

/* -- the disk ------------------------------------------------------------------------------------------------------------- */

static struct file {
    ino_t   inode;
    uint8_t durable[SECTORS * SECTOR];
} files[FILES];
static struct sector { /* as the page cache had it once: it may be on the disk */
    unsigned file, number;
    uint8_t  bytes[SECTOR];
} pending[PENDING];
static struct change { /* a name that leads to a file, and another one no more */
    char     from[JOURNAL_NAME], to[JOURNAL_NAME];
    unsigned file;
} changes[FILES], names[FILES];
static unsigned n_files, n_pending, n_changes, n_names;

static uint64_t now, power_at, kill_at, full_at, sick_at; /* operations */
static bool     dark, dead, sick, rival; /* rival: somebody makes a file at the last moment */

static void forget(void)
{
    n_files = n_pending = n_changes = n_names = 0;
    now = power_at = kill_at = full_at = sick_at = 0;
    dark = dead = sick = false;
}

/* goes_on -- another operation; false: it is the last one of this process, or of all. */
static bool goes_on(void)
{
    now++;
    dark = now == power_at;
    dead = dark || now == kill_at;
    return !dead;
}

static void changed(const char *from, const char *to, unsigned file)
{
    CHECK(n_changes < FILES);
    struct change *c = &changes[n_changes++];
    snprintf(c->from, sizeof c->from, "%s", from);
    snprintf(c->to, sizeof c->to, "%s", to);
    c->file = file;
}

static unsigned file_of(int fd)
{
    struct stat st;
    unsigned    i = 0;
    CHECK(fstat(fd, &st) == 0);
    while (i < n_files && files[i].inode != st.st_ino)
        i++;
    if (i == n_files) {
        CHECK(n_files < FILES);
        files[n_files++] = (struct file){.inode = st.st_ino};
        changed("", SPARE_NAME, i);
    }
    return i;
}

/* on_disk -- what is not flushed of a file: up to `all` each sector has its newest form, else any that it had. */
static void on_disk(unsigned file, bool all)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < n_pending; i++) {
        if (pending[i].file != file)
            pending[kept++] = pending[i];
        else if (all || chance(2) == 0)
            memcpy(files[file].durable + pending[i].number * SECTOR, pending[i].bytes, SECTOR);
    }
    n_pending = kept;
}

static void names_on_disk(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        unsigned kept = 0;
        for (unsigned k = 0; k < n_names; k++)
            if (strcmp(names[k].to, changes[i].from) != 0 && strcmp(names[k].to, changes[i].to) != 0)
                names[kept++] = names[k];
        names[kept] = changes[i];
        n_names = kept + 1;
    }
    memmove(changes, changes + n, (n_changes - n) * sizeof *changes);
    n_changes -= n;
}

/* failed_to -- the disk has not taken it, and the kernel has told whoever waited: pages are clean, and may be read again from the disk. */
static void failed_to_flush(int fd, unsigned file)
{
    struct stat st;
    on_disk(file, false);
    CHECK(fstat(fd, &st) == 0 && st.st_size <= (off_t)sizeof files[file].durable);
    if (chance(2) == 0)
        CHECK(pwrite(fd, files[file].durable, (size_t)st.st_size, 0) == (ssize_t)st.st_size);
}

int disk_write(int fd, uint64_t off, const struct iovec *what, int n)
{
    uint8_t  bytes[SECTORS * SECTOR];
    uint64_t length = 0;
    if (dead)
        return EIO;
    const bool     goes = goes_on(), full = now == full_at;
    const unsigned file = file_of(fd);
    for (int i = 0; i < n; i++) {
        CHECK(what[i].iov_len <= sizeof bytes - length);
        memcpy(bytes + length, what[i].iov_base, what[i].iov_len);
        length += what[i].iov_len;
    }
    CHECK(off + length <= sizeof bytes);
    for (uint64_t at = off, next; at < off + length; at = next) {
        next = (at / SECTOR + 1) * SECTOR;
        next = next < off + length ? next : off + length;
        if ((!goes || full) && chance(3) == 0)
            break;
        CHECK(pwrite(fd, bytes + (at - off), next - at, (off_t)at) == (ssize_t)(next - at) && n_pending < PENDING);
        struct sector *s = &pending[n_pending++];
        *s = (struct sector){.file = file, .number = (unsigned)(at / SECTOR)};
        CHECK(pread(fd, s->bytes, SECTOR, (off_t)(at / SECTOR * SECTOR)) > 0);
    }
    return !goes ? EIO : full ? ENOSPC : 0;
}

int disk_sync(int fd)
{
    if (dead)
        return EIO;
    const bool     goes = goes_on();
    const unsigned file = file_of(fd), fate = (unsigned)chance(3);
    if (now == full_at)
        return ENOSPC;
    sick = goes && now == sick_at;
    if (sick || (!goes && !dark && fate == 0))
        failed_to_flush(fd, file);
    else if (goes || fate == 1)
        on_disk(file, true);
    return goes && !sick ? 0 : EIO;
}

int disk_sync_folder(int folder)
{
    (void)folder;
    if (dead)
        return EIO;
    const bool goes = goes_on();
    if (now == full_at)
        return ENOSPC;
    if (goes || chance(2) == 0)
        names_on_disk(n_changes);
    return goes ? 0 : EIO;
}

int disk_rename(int folder, const char *from, const char *to)
{
    struct stat st;
    unsigned    i = 0;
    if (dead)
        return EIO;
    const bool goes = goes_on();
    if (now == full_at)
        return ENOSPC;
    CHECK(fstatat(folder, from, &st, 0) == 0);
    while (i < n_files && files[i].inode != st.st_ino)
        i++;
    CHECK(i < n_files);
    if (!goes && chance(2) == 0)
        return EIO;
    if (rival)
        close(openat(folder, to, O_RDWR | O_CREAT | O_EXCL, 0600));
    if (renameat2(folder, from, folder, to, RENAME_NOREPLACE) != 0)
        return errno;
    changed(from, to, i);
    return goes ? 0 : EIO;
}

/* come_back -- a folder as the disk has it now, without power. */
static int come_back(void)
{
    int folder = new_folder();
    for (unsigned i = 0; i < n_files; i++)
        on_disk(i, false);
    names_on_disk((unsigned)chance(n_changes + 1));
    for (unsigned i = 0; i < n_names; i++) {
        int fd = openat(folder, names[i].to, O_RDWR | O_CREAT | O_EXCL, 0600);
        CHECK(fd >= 0 && pwrite(fd, files[names[i].file].durable, SIZE, 0) == SIZE);
        close(fd);
    }
    return folder;
}

/* -- the arena, and what was committed -------------------------------------------------------------------------------------- */

static rcv_arena *arena;
static struct committed {
    uint64_t position, end, seq, salt;
} line[LINE];
static unsigned n_line;
static uint64_t promised, run_number; /* all before it was said to be durable */

static _Noreturn void wrong(const char *what)
{
    fprintf(stderr, "run %llu, operation %llu of %llu, told %llu: %s (%s)\n", (unsigned long long)run_number, (unsigned long long)now,
            (unsigned long long)power_at, (unsigned long long)promised, what, rcv_error_text());
    exit(1);
}

static void fill(uint8_t *p, uint64_t n, uint64_t salt)
{
    for (uint64_t i = 0; i < n; i++)
        p[i] = (uint8_t)(salt * 131 + i * 7 + (i >> 8));
}

static void commit(void)
{
    struct rcv_feed *f = arena->feed;
    const uint64_t   head = feed_load(&f->head), seq = feed_load(&f->head_seq) + 1;
    struct rcv_commit r = {.mark = RCV_COMMIT_MARK, .length = (uint32_t)(sizeof r + 8 * chance(40)), .seq = seq, .at = 1000 + seq};
    uint8_t          *p = arena->ring + (head & (arena->ring_size - 1));
    CHECK(n_line < LINE && head + r.length - feed_load(&f->tail) < arena->ring_size);
    line[n_line] = (struct committed){head, head + r.length, seq, now * 7 + chance(1000)};
    memcpy(p, &r, sizeof r);
    fill(p + sizeof r, r.length - sizeof r, line[n_line++].salt);
    feed_store(&f->head, head + r.length);
    feed_store(&f->head_seq, seq);
}

/* note -- what others in the segment are promised by now. */
static void note(void)
{
    const uint64_t at = rcv_durable(arena);
    if (!dark && at > promised)
        promised = at;
}

/* -- lives of processes ------------------------------------------------------------------------------------------------------- */

/* tip -- where the journal ends by what its last file has (Folder.tip); not beyond `most`, which a batch ends at or begins at. */
static struct rcv_journal_start tip(int folder, uint64_t most)
{
    struct rcv_journal_start at;
    struct rcv_journal_batch b;
    rcv_journal_file        *f;
    uint64_t                 number;
    int                      rc;
    if (journal_last(folder, &number) != 1 || rcv_journal_open_file(folder, "test", number, &f) != 0)
        wrong("no journal is left");
    rcv_journal_get_start(f, &at);
    while ((rc = rcv_journal_next(f, &b)) == 1 && b.end <= most) {
        at.position = b.end;
        at.chain = b.chain;
        at.seq = b.records > 0 ? b.seq : at.seq;
        at.at = b.records > 0 ? b.at : at.at;
    }
    if (rc < 0)
        wrong("the last file is damaged");
    rcv_journal_close_file(f);
    return at;
}

/* made -- a file that goes on from there. */
static bool made(const struct rcv_journal_start *from)
{
    rcv_writer *w;
    int         rc = rcv_writer_create(folder_path, from, &w);
    if (rc == 0)
        rcv_writer_close(w);
    else if (!dead && !sick && rc != RCV_ERR_FULL)
        wrong("a file could not be made");
    sick = false;
    return rc == 0;
}

/* restored -- the segment is gone: its state is what the journal has (start.restore). */
static bool restored(int folder)
{
    struct rcv_journal_start from = tip(folder, UINT64_MAX);
    if (from.position < promised)
        wrong("a kill has taken what was durable");
    from.epoch++;
    if (!made(&from))
        return false;
    feed_begin_at(arena, from.position, from.epoch);
    feed_restored(arena, from.seq, from.at);
    while (n_line > 0 && line[n_line - 1].position >= from.position)
        n_line--;
    CHECK(rcv_journal_attach(arena, from.position, from.seq) == 0);
    return true;
}

/* started -- a process opens the arena, and none had it open (attach._is_next). */
static bool started(int folder)
{
    const bool ended = atomic_load(&arena->feed->flushed.stopped) != 0;
    if (!ended && chance(4) == 0)
        rcv_sink_close(arena, 0); /* as somebody may */
    struct rcv_journal_start at = tip(folder, ended ? rcv_durable(arena) : UINT64_MAX);
    if (!ended && rcv_journal_goes_on(arena, at.position))
        return true;
    if (ended ? !made(&at) : rcv_journal_settle(folder_path, &at) != 0)
        return false;
    CHECK(rcv_journal_attach(arena, at.position, at.seq) == 0);
    note();
    return true;
}

/* served -- 0: that has come about; 1: it has not, and this process writes no more. */
static int served(struct rcv_flusher *f, int (*what)(struct rcv_flusher *))
{
    int rc;
    while ((rc = what(f)) == RCV_ERR_FULL)
        ;
    note();
    if (rc == 0)
        return 0;
    if (!dead && !(sick && rc == RCV_ERR_OS))
        wrong("it can't go on");
    if (!dead)
        failed(f, rc);
    sick = false;
    return 1;
}

/* recycle -- the oldest file is not needed any more, and serves again (compact._make_spare). */
static void recycle(int folder)
{
    char             name[JOURNAL_NAME];
    uint64_t         last, first = 0;
    rcv_journal_file *f;
    int               fd = -1;
    CHECK(journal_last(folder, &last) == 1);
    while (fd < 0 && ++first + 1 < last) {
        journal_name(first, name);
        fd = openat(folder, name, O_RDONLY);
    }
    if (fd < 0)
        return;
    CHECK(rcv_journal_open_file(folder, "test", first + 1, &f) == 0);
    if (f->start.position <= promised && renameat2(folder, name, folder, SPARE_NAME, RENAME_NOREPLACE) == 0)
        changed(name, SPARE_NAME, file_of(fd));
    rcv_journal_close_file(f);
    close(fd);
}

/* one_life -- of a process that writes, and is killed some time. A busy one makes no file beforehand. */
static void one_life(int folder, bool busy)
{
    struct rcv_flusher *f = os_calloc(1, sizeof *f + sizeof folder_path);
    CHECK(f != NULL && rcv_sink_open(arena, RCV_JOURNAL_SINK, 1, &f->sink) == 0);
    f->a = arena;
    f->lock = f; /* it has it */
    strcpy(f->where, folder_path);
    pthread_mutex_init(&f->error_lock, NULL);
    pipes_begin(&f->pipes);
    CHECK(rcv_sink_serve(arena, f->sink) == 1);
    int      rc = served(f, take_over);
    unsigned batches = (unsigned)chance(20);
    for (unsigned i = 0; rc == 0 && i < batches; i++) {
        while (!busy && chance(2) == 0 && rcv_writer_prepare(f->writer) == 1)
            ;
        if (chance(4) == 0)
            recycle(folder);
        for (uint64_t n = 1 + chance(3); n > 0; n--)
            commit();
        rc = served(f, write_some);
        if (rc == 0 && !busy && chance(2) == 0)
            rcv_writer_keep_up(f->writer);
    }
    if (rc == 0 && chance(2) == 0)
        (void)rcv_writer_end(f->writer);
    sick = false; /* which nobody has promised of */
    rcv_writer_close(f->writer);
    pipes_end(&f->pipes);
    os_free(f);
}

/* -- afterwards ---------------------------------------------------------------------------------------------------------------- */

/* head_of -- position of a file that is there; UINT64_MAX: it is not. */
static uint64_t head_of(int folder, uint64_t number, rcv_journal_file **out)
{
    int rc = rcv_journal_open_file(folder, "test", number, out);
    if (rc != 0 && rc != RCV_ERR_NOTFOUND)
        wrong("a file has another one's head");
    return rc == 0 ? (*out)->start.position : UINT64_MAX;
}

/* read_back -- up to where the files have all that was committed; `needed`: from where on somebody needs them. */
static uint64_t read_back(int folder, uint64_t needed)
{
    uint64_t                 last, heads[FILES], reached = UINT64_MAX;
    struct rcv_journal_batch b;
    rcv_journal_file        *f[FILES] = {0};
    CHECK(journal_last(folder, &last) == 1 && last < FILES);
    for (uint64_t i = 1; i <= last; i++)
        heads[i] = head_of(folder, i, &f[i]);
    for (uint64_t i = 1; i <= last; i++) {
        uint64_t end = UINT64_MAX;
        for (uint64_t k = i + 1; k <= last; k++)
            end = heads[k] < end ? heads[k] : end;
        if (f[i] == NULL) {
            if (reached != UINT64_MAX)
                wrong("a file is missing");
            continue;
        }
        if (reached == UINT64_MAX)
            reached = heads[i] <= needed ? heads[i] : needed + 1;
        if (heads[i] > reached)
            wrong("the journal lacks commits before a file");
        for (int rc; reached < end && (rc = rcv_journal_next(f[i], &b)) != 0;) {
            if (rc < 0)
                wrong("a file is damaged");
            for (uint64_t at = b.position, n; at < b.end; at += n) {
                const struct rcv_commit *r = (const struct rcv_commit *)(const void *)((const uint8_t *)b.data + (at - b.position));
                uint8_t                  expected[64 + 8 * 40];
                unsigned                 k = 0;
                n = r->length;
                while (k < n_line && line[k].position != at)
                    k++;
                if (at < reached || at >= end)
                    continue;
                if (k == n_line || line[k].end != at + n || line[k].seq != r->seq || at != reached)
                    wrong("nobody has committed that");
                fill(expected, n - sizeof *r, line[k].salt);
                CHECK(memcmp(expected, r + 1, n - sizeof *r) == 0);
                reached = at + n;
            }
        }
    }
    for (uint64_t i = 1; i <= last; i++)
        rcv_journal_close_file(f[i]);
    return reached;
}

static void one_run(uint64_t number)
{
    int                      before, after;
    struct rcv_journal_start from = at_first;
    forget();
    run_number = number;
    promised = 0;
    before = new_folder();
    memcpy(from.id, arena->feed->id, sizeof from.id);
    feed_begin_at(arena, from.position, from.epoch);
    feed_restored(arena, 0, 0);
    n_line = 0;
    CHECK(made(&from) && rcv_journal_attach(arena, from.position, from.seq) == 0);
    note();
    power_at = now + 1 + chance(150);
    bool       gone = false;
    const bool busy = chance(2) == 0;
    while (!dark) {
        dead = false;
        kill_at = chance(3) != 0 ? now + 1 + chance(20) : 0;
        sick = false;
        full_at = chance(3) == 0 ? now + 1 + chance(20) : 0;
        sick_at = chance(6) == 0 ? now + 1 + chance(20) : 0;
        gone = gone || chance(4) == 0;
        const bool must = atomic_load(&arena->feed->flushed.stopped) != 0 || atomic_load(&arena->feed->sink[0].state) == RCV_SINK_FREE;
        if (gone)
            gone = !restored(before);
        else if ((must || chance(2) == 0) && !started(before))
            continue;
        if (gone || dead)
            continue;
        note();
        one_life(before, busy);
    }
    remove_folder(before);
    after = come_back();
    if (read_back(after, promised) < promised)
        wrong("what was durable is not there");
    forget(); /* and it goes on */
    from = tip(after, UINT64_MAX);
    from.epoch++;
    CHECK(made(&from));
    feed_begin_at(arena, from.position, from.epoch);
    feed_restored(arena, from.seq, from.at);
    while (n_line > 0 && line[n_line - 1].position >= from.position)
        n_line--;
    CHECK(rcv_journal_attach(arena, from.position, from.seq) == 0);
    one_life(after, false);
    if (read_back(after, promised) < rcv_durable(arena))
        wrong("it does not go on");
    remove_folder(after);
}

/* test_a_full_disk_at_each_call -- of all that making a file takes, too: it is tried again, and goes on. */
static void test_a_full_disk_at_each_call(void)
{
    static const uint8_t     records[1024];
    struct rcv_journal_start from = at_first;
    unsigned                 failures = 1;
    for (uint64_t at = 1; failures > 0; at++) {
        int         folder = new_folder();
        rcv_writer *w;
        forget();
        CHECK(made(&from) && rcv_writer_resume(folder_path, &w) == 0);
        failures = 0;
        full_at = now + at;
        for (uint64_t i = 1; i <= 12; i++) { /* four files */
            int rc = rcv_writer_append(w, records, sizeof records, i, i, 1);
            for (; rc == RCV_ERR_FULL && failures < 3; failures++)
                rc = rcv_writer_append(w, records, sizeof records, i, i, 1);
            CHECK(rc == 0);
        }
        rcv_writer_close(w);
        CHECK(failures <= 1 && tip(folder, UINT64_MAX).position == from.position + 12 * sizeof records);
        remove_folder(folder);
    }
    forget();
}

/* test_a_file_that_does_not_need_the_last_batch -- a disk that does not take it again is no obstacle. */
static void test_a_file_that_does_not_need_the_last_batch(void)
{
    static const uint8_t     records[64];
    struct rcv_journal_start from = at_first;
    for (unsigned i = 0; i < 4; i++) {
        int         folder = new_folder();
        rcv_writer *w;
        forget();
        from.number = 0;
        from.position = at_first.position;
        CHECK(made(&from) && rcv_writer_resume(folder_path, &w) == 0 && rcv_writer_append(w, records, sizeof records, 1, 1, 1) == 0);
        CHECK(i < 3 || rcv_writer_end(w) == 0);
        rcv_writer_close(w);
        from.number = 1;
        from.position += (uint64_t[]){0, sizeof records + 8, sizeof records, sizeof records}[i]; /* cut off; behind it; at its end */
        sick_at = now + 2; /* the flush of what is written again */
        CHECK(rcv_writer_create(folder_path, &from, &w) == (i < 2 ? 0 : RCV_ERR_OS));
        if (i < 2)
            rcv_writer_close(w);
        remove_folder(folder);
    }
    forget();
}

static void test_a_file_that_somebody_else_has_made(void)
{
    static const uint8_t records[3000];
    int                  folder = new_folder(), rc = 0;
    rcv_writer          *w;
    forget();
    CHECK(made(&at_first) && rcv_writer_resume(folder_path, &w) == 0);
    rival = true;
    for (unsigned i = 1; rc == 0 && i < 9; i++)
        rc = rcv_writer_append(w, records, sizeof records, i, i, 1);
    CHECK(rc == RCV_ERR_OS && strstr(rcv_error_text(), "something else writes in this folder") != NULL);
    rival = false;
    CHECK(rcv_writer_append(w, records, sizeof records, 9, 9, 1) == RCV_ERR_OS);
    rcv_writer_close(w);
    remove_folder(folder);
    forget();
}

int main(void)
{
    const char *runs = getenv("RECOVERABLE_POWER_LOSSES");
    struct rcv_open_options o = {.size = MIB, .feed_size = MIB, .create = 1, .policy = "incremental", .busy_timeout = 0.05, .name = "power"};
    int                     fd = scratch_object();
    CHECK(rcv_open(fd, &o, &arena) == 0);
    rcv_journal_file_size(SIZE);
    test_a_full_disk_at_each_call();
    test_a_file_that_does_not_need_the_last_batch();
    test_a_file_that_somebody_else_has_made();
    for (uint64_t i = 0, n = runs != NULL ? strtoull(runs, NULL, 10) : 400; i < n; i++) {
        dice = i;
        one_run(i);
    }
    CHECK(rcv_close(arena) == 0);
    close(fd);
    CHECKS_DONE();
}
