/* siphash.h -- SipHash-c-d with its round counts as parameters, so that tests can hold it against the published vectors.
 *
 * Aumasson and Bernstein, "SipHash: a fast short-input PRF" (INDOCRYPT 2012). Written from the paper's description.
 */
#ifndef RCV_SIPHASH_H
#define RCV_SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are read in the machine's order, which must be little endian"
#endif

struct sip {
    uint64_t a, b, c, d; /* v0 … v3 of the paper */
};

static inline uint64_t rotate(uint64_t x, unsigned by) { return x << by | x >> (64 - by); }

/* sip_round -- the permutation. */
static inline void sip_round(struct sip *s)
{
    s->a += s->b;
    s->c += s->d;
    s->b = rotate(s->b, 13) ^ s->a;
    s->d = rotate(s->d, 16) ^ s->c;
    s->a = rotate(s->a, 32);
    s->c += s->b;
    s->a += s->d;
    s->b = rotate(s->b, 17) ^ s->c;
    s->d = rotate(s->d, 21) ^ s->a;
    s->c = rotate(s->c, 32);
}

/* sip_word -- take in one word of the message. */
static inline void sip_word(struct sip *s, uint64_t word, unsigned rounds)
{
    s->d ^= word;
    for (unsigned i = 0; i < rounds; i++)
        sip_round(s);
    s->a ^= word;
}

/* sip_load -- fewer than 8 bytes as a word, zero-filled; never reads past them. */
static inline uint64_t sip_load(const uint8_t *p, size_t len)
{
    if (len >= 4) { /* two loads that overlap in the middle, where they agree */
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + len - 4, 4);
        return low | (uint64_t)high << 8 * (len - 4);
    }
    if (len == 0)
        return 0;
    return p[0] | (uint64_t)p[len / 2] << 8 * (len / 2) | (uint64_t)p[len - 1] << 8 * (len - 1);
}

/* sip_hash -- SipHash-`c`-`d` of a message; with `extra` >= 0, of the message and one more byte. */
static inline uint64_t sip_hash(unsigned c, unsigned d, const uint64_t secret[2], const uint8_t *p, size_t len, int extra)
{
    struct sip s = {secret[0] ^ UINT64_C(0x736f6d6570736575), secret[1] ^ UINT64_C(0x646f72616e646f6d),
                    secret[0] ^ UINT64_C(0x6c7967656e657261), secret[1] ^ UINT64_C(0x7465646279746573)};
    size_t total = len + (extra >= 0);
    for (; len >= 8; len -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        sip_word(&s, word, c);
    }
    uint64_t last = sip_load(p, len);
    if (extra >= 0) {
        last |= (uint64_t)extra << 8 * len;
        if (len == 7) { /* the extra byte fills this word: the length goes into one of its own */
            sip_word(&s, last, c);
            last = 0;
        }
    }
    sip_word(&s, last | (uint64_t)(total & 0xff) << 56, c);
    s.c ^= 0xff;
    for (unsigned i = 0; i < d; i++)
        sip_round(&s);
    return s.a ^ s.b ^ s.c ^ s.d;
}

#endif
