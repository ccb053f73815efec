/* pipes.c -- the event loops of a process that want to know when more is durable: each has a pipe, which gets a byte.
 *
 * A program may close a pipe of its own accord, and have its number for something else: so it is looked whose a number is before
 * anything is written there. Who closes one in order takes it out first.
 */
#include "internal.h"

#include <errno.h>
#include <unistd.h>

void pipes_begin(struct pipes *p)
{
    pthread_mutex_init(&p->lock, NULL);
    atomic_store(&p->wanted, 0);
    for (unsigned i = 0; i < PIPES; i++)
        p->each[i].fd = -1;
}

void pipes_end(struct pipes *p) { pthread_mutex_destroy(&p->lock); }

void pipes_ring(struct pipes *p)
{
    struct stat st;
    if (!pipes_wanted(p))
        return;
    pthread_mutex_lock(&p->lock); /* from seeing whose a number is to writing there */
    for (unsigned i = 0; i < PIPES; i++) {
        const struct handle *h = &p->each[i];
        if (h->fd >= 0 && fstat(h->fd, &st) == 0 && st.st_dev == h->device && st.st_ino == h->inode)
            (void)!write(h->fd, "", 1); /* full is fine: it will be read */
    }
    pthread_mutex_unlock(&p->lock);
}

int pipes_enter(struct pipes *p, int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return rcv_raise(RCV_ERR_MISUSE, errno, "no pipe to tell by");
    unsigned at = PIPES;
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < PIPES; i++)
        if (p->each[i].fd == fd || (at == PIPES && p->each[i].fd < 0))
            at = i; /* its own, or that of one that was closed and had the same number; else a free one */
    const bool known = at < PIPES && p->each[at].fd == fd;
    if (at < PIPES) {
        p->each[at] = (struct handle){.fd = fd, .device = st.st_dev, .inode = st.st_ino};
        atomic_fetch_add(&p->wanted, known ? 0 : 1);
    }
    pthread_mutex_unlock(&p->lock);
    if (at == PIPES)
        return rcv_raise(RCV_ERR_FULL, 0, "more than %u event loops wait for a journal in one process", PIPES);
    return known ? 0 : 1;
}

void pipes_leave(struct pipes *p, int fd, dev_t device, ino_t inode)
{
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < PIPES; i++)
        if (p->each[i].fd == fd && p->each[i].device == device && p->each[i].inode == inode) {
            p->each[i].fd = -1;
            atomic_fetch_sub(&p->wanted, 1);
        }
    pthread_mutex_unlock(&p->lock);
}
