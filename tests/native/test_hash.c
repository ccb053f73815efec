/* test_hash.c -- is it SipHash? The permutation and the framing against the paper's and the reference's vectors for 2-4
 * (through the round counts), and 1-3 against CPython's own (hash(bytes) under PYTHONHASHSEED=0: the key is zero). */
#include "check.h"

#include "base/base.h"
#include "base/siphash.h"

static uint8_t message[256];

static uint64_t hash_2_4(size_t len)
{
    const uint64_t key[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
    return sip_hash(2, 4, key, message, len, -1);
}

static void test_2_4(void)
{
    static const uint64_t vectors[16] = {
        UINT64_C(0x726fdb47dd0e0e31), UINT64_C(0x74f839c593dc67fd), UINT64_C(0x0d6c8009d9a94f5a), UINT64_C(0x85676696d7fb7e2d),
        UINT64_C(0xcf2794e0277187b7), UINT64_C(0x18765564cd99a68d), UINT64_C(0xcbc9466e58fee3ce), UINT64_C(0xab0200f58b01d137),
        UINT64_C(0x93f5f5799a932462), UINT64_C(0x9e0082df0ba9e4b0), UINT64_C(0x7a5dbbc594ddb9f3), UINT64_C(0xf4b32f46226bada7),
        UINT64_C(0x751e8fbc860ee5fb), UINT64_C(0x14ea5627c0843d90), UINT64_C(0xf723ca908e7af2ee), UINT64_C(0xa129ca6149be45e5)};
    for (size_t len = 0; len < 16; len++)
        CHECK(hash_2_4(len) == vectors[len]);
}

static void test_1_3(void)
{
    static const struct {
        size_t   len;
        uint64_t hash;
    } vectors[] = {{1, UINT64_C(0x68a914128e01e473)},  {2, UINT64_C(0x10bac45c41e3669)},   {6, UINT64_C(0xe3c25f87624f1cdb)},
                   {7, UINT64_C(0x2f098ab0c751325a)},  {8, UINT64_C(0xead411e67ebe2eea)},  {9, UINT64_C(0x75927f9d95124362)},
                   {15, UINT64_C(0xf30eb725bb91c9ea)}, {16, UINT64_C(0x8972188433a5c5b7)}, {17, UINT64_C(0x4883c49a2c009c1d)},
                   {31, UINT64_C(0x169739443111d49b)}, {64, UINT64_C(0x75e05fd5bbc870c6)}};
    const uint64_t key[2] = {0, 0};
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        CHECK(sip_hash(1, 3, key, message, vectors[i].len, -1) == vectors[i].hash);
        size_t before = vectors[i].len - 1; /* the last byte given as the kind */
        CHECK(rcv_siphash(key, message[before], message, before) == vectors[i].hash);
    }
}

static void test_kind_and_key_matter(void)
{
    const uint64_t key[2] = {1, 2}, other[2] = {1, 3};
    for (size_t len = 0; len < sizeof message; len++) {
        CHECK(rcv_siphash(key, 1, message, len) != rcv_siphash(key, 2, message, len));
        CHECK(rcv_siphash(key, 1, message, len) != rcv_siphash(other, 1, message, len));
        for (int kind = 0; kind < 256; kind += 51) /* the kind is one more byte, at every length */
            CHECK(rcv_siphash(key, (uint8_t)kind, message, len) == sip_hash(1, 3, key, message, len, kind));
    }
    for (size_t len = 0; len + 1 < sizeof message; len++)
        CHECK(rcv_siphash(key, message[len], message, len) == sip_hash(1, 3, key, message, len + 1, -1));
}

int main(void)
{
    for (size_t i = 0; i < sizeof message; i++)
        message[i] = (uint8_t)i;
    test_2_4();
    test_1_3();
    test_kind_and_key_matter();
    CHECKS_DONE();
    return 0;
}
