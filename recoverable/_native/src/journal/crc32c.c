/* crc32c.c -- the Castagnoli CRC: what the journal's files carry, since it is the one that processors have an instruction for.
 *
 * Polynomial 0x1EDC6F41, reflected, as in iSCSI (RFC 3720, appendix B.4), ext4 and RocksDB.
 */
#include "internal.h"

#include <pthread.h>

static uint32_t (*update)(uint32_t crc, const uint8_t *p, size_t n);

/* -- by tables: any processor (Sarwate 1988, eight bytes at a time) ------------------------------------------------ */

static uint32_t table[8][256];

static void fill_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (unsigned bit = 0; bit < 8; bit++)
            c = c >> 1 ^ (c & 1 ? UINT32_C(0x82f63b78) : 0);
        table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (unsigned k = 1; k < 8; k++)
            table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xff];
}

static uint32_t by_tables(uint32_t crc, const uint8_t *p, size_t n)
{
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        word ^= crc;
        crc = 0;
        for (unsigned k = 0; k < 8; k++)
            crc ^= table[7 - k][word >> 8 * k & 0xff];
    }
    while (n-- > 0)
        crc = crc >> 8 ^ table[0][(crc ^ *p++) & 0xff];
    return crc;
}

/* -- by the processor ------------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *p, size_t n)
{
    uint64_t c = crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        c = __builtin_ia32_crc32di(c, word);
    }
    crc = (uint32_t)c;
    while (n-- > 0)
        crc = __builtin_ia32_crc32qi(crc, *p++);
    return crc;
}

static bool has_instruction(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__)
#include <sys/auxv.h>

__attribute__((target("+crc"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *p, size_t n)
{
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        crc = __builtin_aarch64_crc32cx(crc, word);
    }
    while (n-- > 0)
        crc = __builtin_aarch64_crc32cb(crc, *p++);
    return crc;
}

static bool has_instruction(void) { return getauxval(AT_HWCAP) & (1 << 7); }
#else
#define by_instruction by_tables
static bool has_instruction(void) { return false; }
#endif

static void choose(void)
{
    fill_tables();
    update = has_instruction() ? by_instruction : by_tables;
}

/* -- for both ----------------------------------------------------------------------------------------------------------- */

/* crc32c -- of what came before (0: nothing) and these bytes. */
uint32_t crc32c(uint32_t before, const void *bytes, size_t n)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
    return ~update(~before, bytes, n);
}

uint32_t crc32c_by_tables(uint32_t before, const void *bytes, size_t n)
{
    (void)crc32c(0, "", 0);
    return ~by_tables(~before, bytes, n);
}
