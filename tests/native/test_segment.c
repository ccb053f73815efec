/* test_segment.c -- is a segment found whole, refused or mended, whatever was done to it and whoever died in it? */
#include "scratch.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <time.h>

/* made -- an object with a closed arena in it. */
static int made(uint64_t size)
{
    int fd = scratch_object();
    CHECK(rcv_close(scratch_arena(fd, size)) == 0);
    return fd;
}

static bool says(const char *part) { return strstr(rcv_error_text(), part) != NULL; }

/* -- making, attaching, closing --------------------------------------------------------------------------------- */

static void test_make_attach_close(void)
{
    int        fd = scratch_object();
    rcv_arena *a, *b;
    CHECK(scratch_open(fd, 0, &a) == RCV_ERR_NOTFOUND && a == NULL);
    a = scratch_arena(fd, 3 * MIB + 1);
    CHECK(rcv_created(a) && !rcv_recovered(a)->happened);
    CHECK(a->data_size == 3 * MIB + RCV_CHUNK && a->hdr->chunk_count == a->data_size / RCV_CHUNK);
    CHECK(rcv_data_claimed(a) >= RCV_SLICE && a->stamp_mask + 1 == a->hdr->stamp_count);
    CHECK(a->hdr->hash_secret[0] != 0 && a->hdr->hash_secret[0] != a->hdr->hash_secret[1]);
    step_begin(a);
    put(a, 100, 1234);
    step_commit(a);
    b = scratch_arena(fd, 64 * MIB); /* another size: the segment's own stays */
    CHECK(!rcv_created(b) && !rcv_recovered(b)->happened && b->data_size == a->data_size);
    CHECK(*nth_word(b, 100) == 1234);
    CHECK(rcv_processes(b, NULL, 0) == 2); /* two attachments, two slots, one process */
    struct rcv_stats stats;
    CHECK(rcv_get_stats(b, &stats) == 0);
    CHECK(stats.size == a->data_size && stats.processes == 2 && stats.recoveries == 0 && stats.overhead > stats.undo_claimed);
    CHECK(rcv_close(a) == 0 && rcv_processes(b, NULL, 0) == 1);
    CHECK(rcv_close(b) == 0 && rcv_close(NULL) == 0);
    close(fd);
}

static void test_sizes(void)
{
    int                     fd = scratch_object();
    rcv_arena              *a = NULL;
    struct statvfs          fs;
    struct stat             st;
    struct rcv_open_options o = {.create = 1, .name = "sizes"};
    CHECK(fstatvfs(fd, &fs) == 0);
    o.size = ((uint64_t)9 << 40);
    CHECK(rcv_open(fd, &o, &a) == RCV_ERR_MISUSE);
    o.size = (uint64_t)fs.f_blocks * fs.f_frsize + MIB;
    if (fs.f_blocks != 0 && o.size < (uint64_t)8 << 40) {
        CHECK(rcv_open(fd, &o, &a) == RCV_ERR_FULL);
        CHECK(says("--shm-size") && says("MiB"));
        CHECK(fstat(fd, &st) == 0 && st.st_size == 0);
    }
    o.size = 1;
    o.undo_size = 1;
    CHECK(rcv_open(fd, &o, &a) == 0);
    CHECK(a->data_size == RCV_SLICE && a->undo_size == 4 * os_page_size());
    CHECK(rcv_close(a) == 0);
    CHECK(rcv_close(scratch_arena(fd, 0)) == 0);
    close(fd);
}

static void test_each_failure_of_the_machine(void)
{
    if (!rcv_test_build()) {
        puts("skip: needs -Dcrashpoints=true: each failure of the machine");
        return;
    }
    for (int kind = RCV_FAIL_MALLOC; kind <= RCV_FAIL_MMAP; kind++)
        for (int attach = 0; attach < 2; attach++) {
            int fd = scratch_object(), failures = 0;
            if (attach)
                CHECK(rcv_close(scratch_arena(fd, MIB)) == 0);
            for (uint64_t nth = 1;; nth++) {
                rcv_arena  *a;
                struct stat st;
                rcv_fail_at(kind, nth);
                int rc = scratch_open(fd, MIB, &a);
                rcv_fail_at(kind, 0);
                if (rc == 0) {
                    CHECK(rcv_close(a) == 0);
                    if (failures + 3 < (int)nth) /* some calls may fail without harm */
                        break;
                    continue;
                }
                failures++;
                CHECK(rc == RCV_ERR_FULL || rc == RCV_ERR_OS);
                CHECK(rcv_error_text()[0] != '\0' && a == NULL);
                CHECK(fstat(fd, &st) == 0);
                CHECK(!attach || st.st_size != 0);                                  /* never made anew */
                CHECK(attach || kind != RCV_FAIL_FALLOCATE || st.st_size == 0);     /* nothing half-made left */
            }
            CHECK(kind == RCV_FAIL_MPROTECT || (kind == RCV_FAIL_FALLOCATE && attach) || failures > 0);
            CHECK(rcv_close(scratch_arena(fd, MIB)) == 0);
            close(fd);
        }
}

static void test_a_full_file_system(void)
{
    char where[] = "/tmp/recoverable-test.XXXXXX", path[64];
    CHECK(mkdtemp(where) != NULL);
    if (mount("none", where, "tmpfs", 0, "size=1m,mode=0700") != 0) {
        puts("skip: may not mount a tmpfs: a full file system");
        rmdir(where);
        return;
    }
    snprintf(path, sizeof path, "%s/object", where);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    umount2(where, MNT_DETACH); /* gone with its last descriptor */
    rmdir(where);
    CHECK(fd >= 0);
    rcv_arena  *a;
    struct stat st;
    CHECK(scratch_open(fd, 4 * MIB, &a) == RCV_ERR_FULL && says("--shm-size"));
    int rc = scratch_open(fd, MIB, &a);
    if (rc == RCV_ERR_FULL) { /* tables and first slices may fit or not */
        CHECK(fstat(fd, &st) == 0 && st.st_size == 0);
    } else {
        CHECK(rc == 0);
        CHECK(seg_claim_data(a, MIB) == RCV_ERR_FULL && says("1 MiB in all"));
        uint64_t claimed = rcv_data_claimed(a);
        memset(a->core + a->data_off, 1, claimed); /* all of what is marked is there: no SIGBUS */
        CHECK(rcv_close(a) == 0);
    }
    close(fd);
}

static void no_handler(int sig) { (void)sig; }

/* storm -- SIGALRM every so many microseconds, whose handler restarts nothing; 0 ends it. */
static void storm(int every)
{
    struct sigaction action = {.sa_handler = every != 0 ? no_handler : SIG_DFL};
    struct itimerval timer = {{0, every}, {every != 0 ? 0 : 100, every}}; /* at rest it guards against a hang, fatally */
    CHECK(every == 0 || sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
}

static void test_claiming_under_signals(void)
{
    int fd = scratch_object();
    CHECK(ftruncate(fd, 64 << 20) == 0);
    storm(100);
    int err = os_claim(fd, 0, 64 << 20);
    storm(0);
    struct stat st;
    CHECK(err == 0 && fstat(fd, &st) == 0 && st.st_blocks * 512 == 64 << 20);
    close(fd);
}

static void test_the_callers_file_lock_stays_the_callers(void)
{
    int fd = made(MIB), own;
    CHECK(os_reopen(fd, &own) == 0 && flock(fd, LOCK_EX) == 0);
    rcv_arena *a = scratch_arena(fd, 0);
    CHECK(flock(own, LOCK_EX | LOCK_NB) != 0);
    close(fd); /* no duplicate of the description keeps the lock */
    CHECK(flock(own, LOCK_EX | LOCK_NB) == 0);
    CHECK(rcv_close(a) == 0);
    close(own);
}

static void test_claiming(void)
{
    rcv_arena *a = scratch_arena(scratch_object(), MIB);
    CHECK(seg_claim_data(a, 0) == 0 && rcv_data_claimed(a) == RCV_SLICE);
    CHECK(rcv_at(a, a->data_off + RCV_SLICE, 8) == NULL);
    CHECK(seg_claim_data(a, RCV_SLICE + 1) == 0 && rcv_data_claimed(a) == RCV_SLICE + RCV_CHUNK);
    CHECK(rcv_at(a, a->data_off + RCV_SLICE, 8) != NULL && rcv_at(a, a->data_off + RCV_SLICE, RCV_CHUNK + 1) == NULL);
    CHECK(rcv_at(a, a->data_off + 4, 8) == NULL && rcv_at(a, a->data_off - 8, 8) == NULL && rcv_at(a, UINT64_MAX - 7, 8) == NULL);
    CHECK(seg_claim_data(a, a->data_size) == 0 && rcv_data_claimed(a) == a->data_size);
    CHECK(seg_claim_data(a, a->data_size + 1) == RCV_ERR_FULL && says("size"));
    CHECK(rcv_close(a) == 0);
}

/* -- what was done to it ------------------------------------------------------------------------------------------ */

static bool known_error(int rc)
{
    return rc == RCV_ERR_CORRUPT || rc == RCV_ERR_VERSION || rc == RCV_ERR_PERMISSION || rc == RCV_ERR_NOTFOUND;
}

static void scribble(int fd, uint64_t off, const void *bytes, size_t len)
{
    CHECK(pwrite(fd, bytes, len, (off_t)off) == (ssize_t)len);
}

/* is it still openable, and what does it say? */
static int try_open(int fd)
{
    rcv_arena *a;
    int        rc = scratch_open(fd, 0, &a);
    if (rc == 0)
        CHECK(rcv_close(a) == 0);
    return rc;
}

#define FIELD(name) offsetof(struct rcv_header, name), sizeof(((struct rcv_header *)0)->name), #name

static void test_every_fixed_field_is_checked(void)
{
    const struct {
        size_t      off, len;
        const char *name;
    } fields[] = {{FIELD(magic)},       {FIELD(format)},    {FIELD(page_size)}, {FIELD(endian)},      {FIELD(owner_uid)},
                  {FIELD(total_size)},  {FIELD(region)},    {FIELD(stamp_count)}, {FIELD(hot_slots)}, {FIELD(chunk_count)},
                  {FIELD(reserved)},    {FIELD(hash_secret)}, {FIELD(checksum)}};
    int               fd = made(MIB);
    struct rcv_header good;
    CHECK(pread(fd, &good, sizeof good, 0) == sizeof good);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        for (size_t byte = 0; byte < fields[i].len; byte++)
            for (unsigned bit = 0; bit < 8; bit += 3) {
                uint8_t value = (uint8_t)(((uint8_t *)&good)[fields[i].off + byte] ^ 1u << bit);
                scribble(fd, fields[i].off + byte, &value, 1);
                int rc = try_open(fd);
                if (!known_error(rc))
                    fprintf(stderr, "%s, byte %zu, bit %u: %d\n", fields[i].name, byte, bit, rc);
                CHECK(known_error(rc));
                scribble(fd, 0, &good, sizeof good);
            }
    CHECK(try_open(fd) == 0);
    uint32_t format = RCV_FORMAT + 1;
    scribble(fd, offsetof(struct rcv_header, format), &format, 4);
    CHECK(try_open(fd) == RCV_ERR_VERSION && says("format 8"));
    scribble(fd, 0, &good, sizeof good);
    uint64_t swapped = __builtin_bswap64(RCV_MAGIC);
    scribble(fd, 0, &swapped, 8);
    CHECK(try_open(fd) == RCV_ERR_VERSION);
    close(fd);
}

/* A header that is consistent with its checksum, but lies: what an attacker or a bug of ours would leave. */
static void test_every_region_is_checked(void)
{
    const uint64_t    from = offsetof(struct rcv_header, format), key[2] = {RCV_MAGIC, RCV_FORMAT};
    int               fd = made(MIB);
    struct rcv_header good, bad;
    CHECK(pread(fd, &good, sizeof good, 0) == sizeof good);
    const uint64_t values[] = {0, 1, 4095, 4096, MIB, good.total_size - 4096, good.total_size, good.total_size + 4096,
                               UINT64_C(1) << 40, UINT64_MAX - 4095, UINT64_MAX};
    for (int i = 0; i < RCV_REGIONS * 2 + 4; i++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            memcpy(&bad, &good, sizeof bad);
            struct rcv_region *r = &bad.region[i / 2 % RCV_REGIONS];
            uint64_t           was = i % 2 ? r->size : r->off;
            if (i < RCV_REGIONS * 2)
                *(i % 2 ? &r->size : &r->off) = values[v];
            else if (i == RCV_REGIONS * 2)
                bad.total_size = values[v];
            else if (i == RCV_REGIONS * 2 + 1)
                bad.stamp_count = (uint32_t)values[v] | 3;
            else if (i == RCV_REGIONS * 2 + 2)
                bad.hot_slots = (uint32_t)values[v] | 1u << 20;
            else
                bad.chunk_count = (uint32_t)values[v];
            bad.checksum = rcv_siphash(key, 0, (uint8_t *)&bad + from, offsetof(struct rcv_header, checksum) - from);
            scribble(fd, 0, &bad, sizeof bad);
            bool same = memcmp((uint8_t *)&bad + from, (uint8_t *)&good + from, offsetof(struct rcv_header, lock) - from) == 0;
            int  rc = try_open(fd);
            /* a region may be smaller than it was and still large enough: then it is another sound segment */
            bool smaller = i < RCV_REGIONS * 2 && i % 2 && values[v] < was && values[v] % 4096 == 0 && rc == 0;
            if (!(same ? rc == 0 : known_error(rc) || smaller))
                fprintf(stderr, "field %d, value %zu: %d\n", i, v, rc);
            CHECK(same ? rc == 0 : known_error(rc) || smaller);
            scribble(fd, 0, &good, sizeof good);
        }
    CHECK(try_open(fd) == 0);
    close(fd);
}

static void test_every_living_field_is_checked_or_harmless(void)
{
    const struct {
        size_t      off, len;
        const char *name;
        bool        checked;
    } fields[] = {{FIELD(lock), false},           {FIELD(phase), true},          {FIELD(corrupt), true},
                  {FIELD(undo_tail), true},       {FIELD(commit_seq), false},    {FIELD(root), true},
                  {FIELD(system), true},
                  {FIELD(reclaim), true},         {FIELD(hot_generation), false}, {FIELD(txn_counter), false},
                  {FIELD(container_counter), false}, {FIELD(process_counter), false}, {FIELD(data_claimed), true},
                  {FIELD(undo_claimed), true},    {FIELD(shadow_claimed), true}, {FIELD(privileged), false},
                  {FIELD(lost), false},   {FIELD(queue), false},          {FIELD(holder_handler), false}, {FIELD(calibration), false},
                  {FIELD(ring), false}};
    int               fd = made(MIB);
    struct rcv_header good;
    CHECK(pread(fd, &good, sizeof good, 0) == sizeof good);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        for (int fill = 1; fill < 256; fill += 127) { /* 0x01, 0x80, 0xff */
            uint8_t bad[sizeof good.ring];
            memset(bad, fill, fields[i].len);
            scribble(fd, fields[i].off, bad, fields[i].len);
            int rc = try_open(fd);
            if (!(fields[i].checked ? rc == RCV_ERR_CORRUPT : rc == 0))
                fprintf(stderr, "%s, 0x%02x: %d: %s\n", fields[i].name, (unsigned)fill, rc, rcv_error_text());
            CHECK(fields[i].checked ? rc == RCV_ERR_CORRUPT : rc == 0);
            scribble(fd, 0, &good, sizeof good);
        }
    const uint64_t tails[] = {8, 16, 24, RCV_SLICE, RCV_SLICE + 8, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++)
        for (uint32_t phase = RCV_IDLE; phase <= RCV_PUBLISH; phase++) { /* an empty log of that length is damage in any phase */
            scribble(fd, offsetof(struct rcv_header, undo_tail), &tails[i], 8);
            scribble(fd, offsetof(struct rcv_header, phase), &phase, 4);
            CHECK(try_open(fd) == RCV_ERR_CORRUPT);
            CHECK(try_open(fd) == RCV_ERR_CORRUPT && says("damage")); /* marked */
            scribble(fd, 0, &good, sizeof good);
        }
    CHECK(try_open(fd) == 0);
    close(fd);
}

static void test_random_scribbles_in_the_tables(void)
{
    int        fd = made(MIB);
    rcv_arena *a = scratch_arena(fd, 0);
    uint64_t   end = a->undo_off;
    CHECK(rcv_close(a) == 0);
    for (int i = 0; i < 300; i++) {
        uint64_t junk[4] = {rnd(UINT64_MAX), rnd(300), rnd(2) ? UINT64_MAX : 0, rnd(UINT64_MAX)};
        scribble(fd, rnd(end - sizeof junk), junk, sizeof junk);
        int rc = try_open(fd);
        CHECK(rc == 0 || known_error(rc));
        if (rc != 0) {
            close(fd);
            fd = made(MIB);
        }
    }
    close(fd);
}

static void test_truncated_at_every_page(void)
{
    int         fd = made(MIB);
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    for (off_t length = st.st_size - 4096; length >= 0; length -= 4096) {
        CHECK(ftruncate(fd, length) == 0);
        CHECK(try_open(fd) == (length == 0 ? RCV_ERR_NOTFOUND : RCV_ERR_CORRUPT));
    }
    CHECK(rcv_close(scratch_arena(fd, MIB)) == 0); /* nothing left: made anew */
    CHECK(fstat(fd, &st) == 0 && ftruncate(fd, st.st_size + 4096) == 0);
    CHECK(try_open(fd) == RCV_ERR_CORRUPT);
    CHECK(ftruncate(fd, 100) == 0);
    rcv_arena *a;
    CHECK(scratch_open(fd, MIB, &a) == RCV_ERR_CORRUPT); /* not ours to make anew */
    close(fd);
}

static void test_a_lost_magic_is_not_a_half_made_arena(void)
{
    int        fd = scratch_object();
    rcv_arena *a = scratch_arena(fd, MIB);
    CHECK(rcv_close(a) == 0);
    uint64_t none = 0;
    scribble(fd, 0, &none, 8);
    CHECK(scratch_open(fd, MIB, &a) == RCV_ERR_CORRUPT); /* it had been opened: there may be data */
    close(fd);
}

static void test_anothers_object_is_refused(void)
{
    if (geteuid() != 0) {
        puts("skip: needs root: another's object");
        return;
    }
    int fd = made(MIB);
    CHECK(fchown(fd, 12345, 12345) == 0);
    CHECK(try_open(fd) == RCV_ERR_PERMISSION && says("12345"));
    CHECK(fchown(fd, 0, 0) == 0);
    CHECK(try_open(fd) == 0);
    close(fd);
    rcv_arena *a;
    fd = scratch_object(); /* nothing in it yet: neither is it ours to fill */
    CHECK(fchown(fd, 12345, 12345) == 0);
    CHECK(scratch_open(fd, MIB, &a) == RCV_ERR_PERMISSION);
    close(fd);
}

/* -- who is alive ------------------------------------------------------------------------------------------------- */

struct pair {
    rcv_arena *a;
    int        fd;
    int        ready[2], go[2]; /* pipes: child -> parent, parent -> child */
    uint64_t   words;           /* that die_in_a_step writes */
    uint64_t   thread;          /* the parent's */
};

static void pair_init(struct pair *p, uint64_t size)
{
    p->fd = scratch_object();
    p->a = scratch_arena(p->fd, size);
    p->words = 1000;
    p->thread = os_thread_id();
    CHECK(pipe(p->ready) == 0 && pipe(p->go) == 0);
}

static void pair_done(struct pair *p)
{
    CHECK(p->a == NULL || rcv_close(p->a) == 0);
    close(p->ready[0]), close(p->ready[1]), close(p->go[0]), close(p->go[1]), close(p->fd);
}

static void tell(int fd) { CHECK(write(fd, "x", 1) == 1); }
static void hear(int fd)
{
    char c;
    CHECK(read(fd, &c, 1) == 1);
}

/* start -- like child(), without waiting for its end. */
static pid_t start(void (*fn)(struct pair *), struct pair *p)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        fn(p);
        _exit(0);
    }
    return pid;
}

static void reap(pid_t pid, bool killed)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(killed ? was_killed(status) : went_well(status));
}

static void attach_and_wait(struct pair *p)
{
    rcv_arena *a = scratch_arena(p->fd, 0);
    uint64_t   pids[4];
    CHECK(rcv_processes(a, pids, 4) == 2);
    tell(p->ready[1]);
    hear(p->go[0]);
    CHECK(rcv_close(a) == 0);
}

static void test_liveness(void)
{
    struct pair p;
    pair_init(&p, MIB);
    CHECK(!process_others(p.a) && process_alive(p.a, p.a->token) && !process_alive(p.a, 0));
    for (int killed = 0; killed < 2; killed++) {
        pid_t pid = start(attach_and_wait, &p);
        hear(p.ready[0]);
        uint64_t pids[4] = {0}, token = 0;
        CHECK(rcv_processes(p.a, pids, 4) == 2 && process_others(p.a));
        CHECK(pids[0] == (uint64_t)getpid() && pids[1] == (uint64_t)pid);
        const struct rcv_process *table = (struct rcv_process *)(p.a->core + p.a->hdr->region[RCV_R_PROCESS].off);
        for (unsigned i = 0; i < RCV_PROCESSES; i++)
            if (table[i].pid == (uint64_t)pid)
                token = atomic_load(&table[i].token);
        CHECK(token != 0 && process_alive(p.a, token));
        if (killed)
            CHECK(kill(pid, SIGKILL) == 0);
        else
            tell(p.go[1]);
        reap(pid, killed);
        CHECK(!process_others(p.a) && !process_alive(p.a, token) && rcv_processes(p.a, NULL, 0) == 1);
    }
    pair_done(&p);
}

static void use_inherited(struct pair *p)
{
    rcv_arena *a = p->a;
    uint64_t   parents = ((struct rcv_process *)(a->core + a->hdr->region[RCV_R_PROCESS].off))->token;
    CHECK(os_thread_id() != p->thread); /* not the parent's: a kept lock is known by it */
    CHECK(a->needs_slot && a->token == 0 && process_alive(a, parents) && rcv_processes(a, NULL, 0) == 1);
    int own, rc;
    CHECK(os_reopen(p->fd, &own) == 0 && flock(own, LOCK_EX) == 0); /* while somebody attaches … */
    CHECK(lock_take(a) == RCV_ERR_AGAIN && a->needs_slot);
    CHECK(rcv_lock_wait(a, NULL) == RCV_ERR_BUSY && says("attaching"));
    close(own);
    CHECK(rcv_lock_wait(a, NULL) == 0);
    CHECK((rc = lock_take(a)) == 0 && !a->needs_slot && a->token != 0 && a->token != parents);
    CHECK(rcv_processes(a, NULL, 0) == 2);
    phase_set(a, RCV_STEP);
    put(a, 5, 555);
    step_commit(a);
    tell(p->ready[1]);
    hear(p->go[0]);
    CHECK(rcv_close(a) == 0);
}

static void only_close(struct pair *p) { CHECK(rcv_close(p->a) == 0); }

static void test_a_forked_child_takes_a_slot_of_its_own(void)
{
    struct pair p;
    pair_init(&p, MIB);
    step_begin(p.a); /* forked in the middle of a step: the lock and the step stay the parent's */
    put(p.a, 7, 777);
    pid_t pid = start(only_close, &p);
    reap(pid, false);
    CHECK(process_alive(p.a, p.a->token) && rcv_processes(p.a, NULL, 0) == 1);
    CHECK(atomic_load(&p.a->hdr->phase) == RCV_STEP && undo_tail(p.a) == undo_cost(8));
    step_rollback(p.a);
    CHECK(*nth_word(p.a, 7) == 0);
    pid = start(use_inherited, &p);
    hear(p.ready[0]);
    CHECK(*nth_word(p.a, 5) == 555 && process_others(p.a));
    tell(p.go[1]);
    reap(pid, false);
    CHECK(!process_others(p.a));
    pair_done(&p);
}

static void outlive_the_parent(struct pair *p)
{
    pid_t pid = fork(); /* the grandchild inherits the arena, its parent dies */
    if (pid == 0) {
        tell(p->ready[1]); /* only now has it let go of what it inherited */
        hear(p->go[0]);
        tell(p->ready[1]);
        _exit(0);
    }
}

static void test_a_child_keeps_no_dead_parent_alive(void)
{
    struct pair p;
    pair_init(&p, MIB);
    CHECK(rcv_close(p.a) == 0);
    int pid = fork();
    if (pid == 0) {
        p.a = scratch_arena(p.fd, 0);
        outlive_the_parent(&p);
        _exit(0);
    }
    reap(pid, false);
    hear(p.ready[0]);
    p.a = scratch_arena(p.fd, 0);
    CHECK(!process_others(p.a));
    tell(p.go[1]);
    hear(p.ready[0]);
    pair_done(&p);
}

static void test_the_table_has_an_end(void)
{
    int        fd = made(MIB);
    rcv_arena *all[RCV_PROCESSES], *more;
    for (unsigned i = 0; i < RCV_PROCESSES; i++)
        all[i] = scratch_arena(fd, 0);
    CHECK(scratch_open(fd, 0, &more) == RCV_ERR_FULL && says("128 processes"));
    CHECK(rcv_processes(all[0], NULL, 0) == RCV_PROCESSES);
    CHECK(rcv_close(all[77]) == 0);
    all[77] = scratch_arena(fd, 0);
    CHECK(all[77]->slot == 77);
    for (unsigned i = 0; i < RCV_PROCESSES; i++)
        CHECK(rcv_close(all[i]) == 0);
    close(fd);
}

/* -- the lock ------------------------------------------------------------------------------------------------------ */

static void hold_the_lock(struct pair *p)
{
    rcv_arena *a = scratch_arena(p->fd, 0);
    CHECK(lock_take(a) == 0);
    memcpy(a->hdr->holder_handler, "app.checkout", 13);
    tell(p->ready[1]);
    hear(p->go[0]);
    lock_drop(a);
    CHECK(rcv_close(a) == 0);
}


static void test_waiting_is_bounded_and_names_the_holder(void)
{
    struct pair p;
    char        pid_text[32];
    pair_init(&p, MIB);
    pid_t pid = start(hold_the_lock, &p);
    hear(p.ready[0]);
    CHECK(lock_take(p.a) == RCV_ERR_AGAIN);
    uint64_t before = os_nanos();
    CHECK(rcv_lock_wait(p.a, NULL) == RCV_ERR_BUSY);
    CHECK(os_nanos() - before >= 50000000u);
    snprintf(pid_text, sizeof pid_text, "process %d", (int)pid);
    CHECK(says(pid_text) && says("app.checkout"));
    CHECK(lock_take(p.a) == RCV_ERR_AGAIN);
    rcv_arena *b = scratch_arena(p.fd, 0); /* attaching does not wait for a living holder */
    CHECK(rcv_close(b) == 0);
    /* Signals in the middle don't cut the wait short. */
    storm(5000);
    before = os_nanos();
    CHECK(rcv_lock_wait(p.a, NULL) == RCV_ERR_BUSY);
    CHECK(os_nanos() - before >= 50000000u);
    p.a->busy_timeout = 10;
    tell(p.go[1]);
    CHECK(rcv_lock_wait(p.a, NULL) == 0);
    storm(0);
    CHECK(rcv_lock_wait(p.a, NULL) == 0); /* again: it is kept */
    CHECK(atomic_load(&p.a->prelocked) == os_thread_id() && lock_owner(p.a) == p.a->token);
    CHECK(lock_take(p.a) == 0 && atomic_load(&p.a->prelocked) == 0);
    CHECK(lock_take(p.a) == RCV_ERR_MISUSE); /* twice */
    lock_drop(p.a);
    CHECK(rcv_lock_wait(p.a, NULL) == 0); /* closing gives a kept lock back */
    reap(pid, false);
    b = scratch_arena(p.fd, 0);
    CHECK(rcv_close(p.a) == 0);
    p.a = NULL;
    CHECK(lock_take(b) == 0);
    lock_drop(b);
    CHECK(rcv_close(b) == 0);
    pair_done(&p);
}

struct thread_step {
    rcv_arena *a;
    bool       end; /* ends while it holds the lock */
};

static void *thread_step(void *arg)
{
    struct thread_step *s = arg;
    CHECK(rcv_lock_wait(s->a, NULL) == 0);
    CHECK(lock_take(s->a) == 0);
    phase_set(s->a, RCV_STEP);
    put(s->a, 3, 333);
    if (!s->end)
        step_commit(s->a);
    return NULL;
}

static void test_threads(void)
{
    struct pair p;
    pthread_t   thread;
    pair_init(&p, MIB);
    p.a->busy_timeout = 10;
    struct thread_step s = {p.a, false};
    CHECK(lock_take(p.a) == 0);
    CHECK(pthread_create(&thread, NULL, thread_step, &s) == 0);
    while (atomic_load(&p.a->waiters) == 0)
        sched_yield();
    CHECK(rcv_close(p.a) == RCV_ERR_MISUSE && says("another thread"));
    lock_drop(p.a);
    CHECK(pthread_join(thread, NULL) == 0 && *nth_word(p.a, 3) == 333);
    put(p.a, 3, 0);
    undo_cut(p.a, 0);
    s.end = true; /* a thread that ends in a step is a dead owner, too */
    CHECK(pthread_create(&thread, NULL, thread_step, &s) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(lock_take(p.a) == 0 && p.a->repaired.happened && p.a->repaired.records == 1 && *nth_word(p.a, 3) == 0);
    lock_drop(p.a);
    pair_done(&p);
}

/* -- death --------------------------------------------------------------------------------------------------------- */

static void die_in_a_step(struct pair *p)
{
    rcv_arena *a = scratch_arena(p->fd, 0);
    step_begin(a);
    memcpy(a->hdr->holder_handler, "app.transfer\x01\xff", 15);
    for (uint64_t i = 0; i < p->words; i++)
        put(a, i, i + 1);
    CHECK(undo_append_trap(a, a->data_off + 3 * 4096) == 0);
    *nth_word(a, 3 * 512) = 9;
    tell(p->ready[1]);
    die();
}

static void die_in_publish(struct pair *p)
{
    rcv_arena *a = scratch_arena(p->fd, 0);
    step_begin(a);
    put(a, 1, 11);
    phase_set(a, RCV_PUBLISH);
    tell(p->ready[1]);
    die();
}

static void check_report(const struct rcv_recovery *r, pid_t pid)
{
    CHECK(r->happened == 1 && r->phase == RCV_STEP && r->records == 1001 && r->bytes == 8000 + 4096 && r->pages == 1);
    CHECK(r->pid == (uint64_t)pid && strcmp(r->handler, "app.transfer?\xff") == 0);
}

static void test_killed_in_a_step_found_by_a_survivor(void)
{
    struct pair p;
    pair_init(&p, MIB);
    for (int wait = 0; wait < 2; wait++) { /* the lock's wait learns of the death as well as its try */
        pid_t pid = start(die_in_a_step, &p);
        hear(p.ready[0]);
        reap(pid, true);
        CHECK(*nth_word(p.a, 999) == 1000);
        if (wait)
            CHECK(rcv_lock_wait(p.a, NULL) == 0);
        CHECK(rcv_pending(p.a) == 0);
        CHECK(lock_take(p.a) == 0);
        check_report(&p.a->repaired, pid);
        CHECK(rcv_pending(p.a) == 1 && rcv_repair_take(p.a) == 1 && rcv_repair_take(p.a) == 0); /* told once */
        for (uint64_t i = 0; i < 2048; i++)
            CHECK(*nth_word(p.a, i) == 0);
        CHECK(atomic_load(&p.a->hdr->phase) == RCV_IDLE && undo_tail(p.a) == 0);
        lock_drop(p.a);
        CHECK(lock_take(p.a) == 0); /* consistent again */
        lock_drop(p.a);
    }
    pid_t pid = start(die_in_publish, &p);
    reap(pid, true);
    CHECK(lock_take(p.a) == 0);
    CHECK(p.a->repaired.phase == RCV_PUBLISH && p.a->repaired.happened && p.a->repaired.records == 0 && *nth_word(p.a, 1) == 11);
    lock_drop(p.a);
    struct rcv_stats stats;
    CHECK(rcv_get_stats(p.a, &stats) == 0 && stats.recoveries == 3);
    pair_done(&p);
}

static void test_killed_in_a_step_found_by_an_attach(void)
{
    for (int survivor = 0; survivor < 2; survivor++) { /* alone, or beside a process that has not noticed yet */
        struct pair p;
        pair_init(&p, MIB);
        rcv_arena *other = p.a;
        if (!survivor)
            CHECK(rcv_close(other) == 0);
        pid_t pid = start(die_in_a_step, &p);
        reap(pid, true);
        p.a = scratch_arena(p.fd, 0);
        check_report(rcv_recovered(p.a), pid);
        CHECK(rcv_repair_take(p.a) == 0); /* the attach has told */
        CHECK(*nth_word(p.a, 0) == 0 && *nth_word(p.a, 1536) == 0);
        CHECK(lock_take(p.a) == 0);
        lock_drop(p.a);
        if (survivor) {
            CHECK(lock_take(other) == 0 && !other->repaired.happened);
            lock_drop(other);
            CHECK(rcv_close(other) == 0);
        }
        pair_done(&p);
    }
}

static void die_with_a_bad_log(struct pair *p)
{
    rcv_arena *a = scratch_arena(p->fd, 0);
    step_begin(a);
    put(a, 1, 11);
    put(a, 2, 22);
    a->undo[8 + 12] ^= 0xff; /* the first record's mark: the second one is sound */
    die();
}

static void test_a_bad_log_is_marked_and_not_acted_on(void)
{
    struct pair p;
    rcv_arena  *b;
    pair_init(&p, MIB);
    reap(start(die_with_a_bad_log, &p), true);
    CHECK(lock_take(p.a) == RCV_ERR_CORRUPT && says("undo record"));
    CHECK(*nth_word(p.a, 2) == 22); /* left as it was */
    CHECK(lock_take(p.a) == RCV_ERR_CORRUPT); /* and not a hang */
    CHECK(rcv_lock_wait(p.a, NULL) == 0 && lock_take(p.a) == RCV_ERR_CORRUPT);
    CHECK(scratch_open(p.fd, 0, &b) == RCV_ERR_CORRUPT && says("earlier recovery"));
    pair_done(&p);
    CHECK(rcv_close(NULL) == 0);
}

/* -- killed at every point ----------------------------------------------------------------------------------------- */

struct crash {
    int      fd;
    uint64_t nth, size;
};

static void open_and_crash(void *arg)
{
    struct crash *c = arg;
    rcv_crash_at(c->nth);
    rcv_arena *a = scratch_arena(c->fd, c->size);
    CHECK(rcv_close(a) == 0);
    _exit(rcv_crash_count() < c->nth ? 42 : 1);
}

static void test_making_killed_at_every_point(void)
{
    if (!rcv_test_build()) {
        puts("skip: needs -Dcrashpoints=true: making killed at every point");
        return;
    }
    for (struct crash c = {.nth = 1, .size = MIB};; c.nth++) {
        c.fd = scratch_object();
        int status = child(open_and_crash, &c);
        CHECK(was_killed(status) || WEXITSTATUS(status) == 42);
        rcv_arena *a = scratch_arena(c.fd, MIB);
        CHECK(!process_others(a) && a->hdr->checksum != 0 && rcv_data_claimed(a) >= RCV_SLICE);
        step_begin(a);
        put(a, 0, 1);
        step_commit(a);
        CHECK(rcv_close(a) == 0);
        close(c.fd);
        if (!was_killed(status)) {
            CHECK(c.nth > 15);
            break;
        }
    }
}

static void test_recovery_killed_at_every_point(bool survivor)
{
    if (!rcv_test_build()) {
        puts("skip: needs -Dcrashpoints=true: recovery killed at every point");
        return;
    }
    for (struct crash c = {.nth = 1};; c.nth++) {
        struct pair p;
        pair_init(&p, MIB);
        c.fd = p.fd;
        p.words = 10;
        if (!survivor) {
            CHECK(rcv_close(p.a) == 0);
            p.a = NULL;
        }
        reap(start(die_in_a_step, &p), true);
        int status = child(open_and_crash, &c); /* attaches, and recovers until it dies */
        CHECK(was_killed(status) || WEXITSTATUS(status) == 42);
        if (survivor) {
            CHECK(rcv_lock_wait(p.a, NULL) == 0 && lock_take(p.a) == 0);
            lock_drop(p.a);
        } else {
            p.a = scratch_arena(p.fd, 0);
        }
        CHECK(!process_others(p.a) && atomic_load(&p.a->hdr->phase) == RCV_IDLE && undo_tail(p.a) == 0);
        for (uint64_t i = 0; i < 2048; i++)
            CHECK(*nth_word(p.a, i) == 0);
        pair_done(&p);
        if (!was_killed(status)) {
            CHECK(c.nth > 20);
            break;
        }
    }
}

int main(void)
{
    storm(0);
    test_make_attach_close();
    test_sizes();
    test_each_failure_of_the_machine();
    test_a_full_file_system();
    test_claiming();
    test_claiming_under_signals();
    test_the_callers_file_lock_stays_the_callers();
    test_every_fixed_field_is_checked();
    test_every_region_is_checked();
    test_every_living_field_is_checked_or_harmless();
    test_random_scribbles_in_the_tables();
    test_truncated_at_every_page();
    test_a_lost_magic_is_not_a_half_made_arena();
    test_anothers_object_is_refused();
    test_liveness();
    test_a_forked_child_takes_a_slot_of_its_own();
    test_a_child_keeps_no_dead_parent_alive();
    test_the_table_has_an_end();
    test_waiting_is_bounded_and_names_the_holder();
    test_threads();
    test_killed_in_a_step_found_by_a_survivor();
    test_killed_in_a_step_found_by_an_attach();
    test_a_bad_log_is_marked_and_not_acted_on();
    test_making_killed_at_every_point();
    test_recovery_killed_at_every_point(false);
    test_recovery_killed_at_every_point(true);
    CHECKS_DONE();
    return 0;
}
