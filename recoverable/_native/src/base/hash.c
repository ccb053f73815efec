/* hash.c -- the keyed hash behind dict buckets and the header's checksum: SipHash-1-3 (siphash.h).
 *
 * A keyed hash because clients choose keys: with an unkeyed one they could choose them to collide. One compression round
 * and three final ones instead of two and four, as CPython and Rust use for their tables.
 */
#include "base.h"
#include "siphash.h"

/* rcv_siphash -- of the bytes and then the byte `kind`, so that equal bytes of different kinds are different messages. */
uint64_t rcv_siphash(const uint64_t secret[2], uint8_t kind, const void *bytes, size_t len)
{
    return sip_hash(1, 3, secret, bytes, len, kind);
}
