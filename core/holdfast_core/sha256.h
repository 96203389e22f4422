/* SHA-256 (FIPS 180-4) of several streams side by side on one core, by the SHA instructions of x86-64.

   One stream waits most of its time for the result of the round before, so a second and a third cost little. The
   rounds of up to SHA256_LANES streams are interleaved; a stream that ends makes room for the next. Where the
   instructions are absent sha256_is_native() says so, and nothing else here may be called. */

#ifndef HOLDFAST_SHA256_H
#define HOLDFAST_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SHA256_BLOCK 64
#define SHA256_LANES 4

/* `bytes` so far; of those that fill no block yet, the first bytes % 64 of `rest`. */
typedef struct {
    uint32_t chain[8];
    uint64_t bytes;
    uint8_t rest[SHA256_BLOCK];
} sha256_stream;

/* Bytes for one stream. */
typedef struct {
    sha256_stream *stream;
    const uint8_t *at;
    size_t length;
} sha256_piece;

static void sha256_begin(sha256_stream *stream)
{
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(stream->chain, first, sizeof first);
    stream->bytes = 0;
}

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>
#include <immintrin.h>

#define SHA256_CODE __attribute__((target("sha,sse4.1,ssse3")))
#define SHA256_INLINE static inline __attribute__((always_inline)) SHA256_CODE

/* Intel's manual, CPUID: leaf 1 ECX has SSSE3 (bit 9) and SSE4.1 (bit 19), leaf 7 EBX has SHA (bit 29). */
static int sha256_is_native(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 9) || !(c & 1u << 19))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29);
}

static const uint32_t sha256_constants[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* What one stream has yet to hash, in whole blocks. */
typedef struct {
    uint32_t *chain;
    const uint8_t *at;
    size_t blocks;
} sha256_lane;

/* The instructions want the words A..H as ABEF and CDGH. */
SHA256_INLINE void sha256_load(const uint32_t *chain, __m128i *abef, __m128i *cdgh)
{
    __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)chain), 0xB1);
    __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(chain + 4)), 0x1B);
    *abef = _mm_alignr_epi8(badc, hgfe, 8);
    *cdgh = _mm_blend_epi16(hgfe, badc, 0xF0);
}

SHA256_INLINE void sha256_store(uint32_t *chain, __m128i abef, __m128i cdgh)
{
    __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)chain, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128((__m128i *)(chain + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/* `blocks` of each of `count` lanes; `count` is a constant of the caller, so that every loop here is unrolled. */
SHA256_INLINE void sha256_rounds(const sha256_lane *lanes, size_t blocks, const int count)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i abef[SHA256_LANES], cdgh[SHA256_LANES], words[SHA256_LANES][4];
    for (int lane = 0; lane < count; lane++)
        sha256_load(lanes[lane].chain, &abef[lane], &cdgh[lane]);
    for (size_t block = 0; block < blocks; block++) {
        __m128i abef_before[SHA256_LANES], cdgh_before[SHA256_LANES];
#pragma GCC unroll 4
        for (int lane = 0; lane < count; lane++) {
            const __m128i *in = (const __m128i *)(lanes[lane].at + block * SHA256_BLOCK);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                words[lane][i] = _mm_shuffle_epi8(_mm_loadu_si128(in + i), big_endian);
            abef_before[lane] = abef[lane];
            cdgh_before[lane] = cdgh[lane];
        }
#pragma GCC unroll 16
        for (int four = 0; four < 16; four++) {
            const __m128i constants = _mm_load_si128((const __m128i *)sha256_constants + four);
#pragma GCC unroll 4
            for (int lane = 0; lane < count; lane++) {
                __m128i *w = words[lane];
                const int a = four & 3, b = (four + 1) & 3, c = (four + 2) & 3, d = (four + 3) & 3;
                const __m128i sum = _mm_add_epi32(w[a], constants);
                cdgh[lane] = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], sum);
                abef[lane] = _mm_sha256rnds2_epu32(abef[lane], cdgh[lane], _mm_shuffle_epi32(sum, 0x0E));
                if (four < 12) {
                    const __m128i seventh = _mm_alignr_epi8(w[d], w[c], 4);
                    const __m128i part = _mm_add_epi32(_mm_sha256msg1_epu32(w[a], w[b]), seventh);
                    w[a] = _mm_sha256msg2_epu32(part, w[d]);
                }
            }
        }
#pragma GCC unroll 4
        for (int lane = 0; lane < count; lane++) {
            abef[lane] = _mm_add_epi32(abef[lane], abef_before[lane]);
            cdgh[lane] = _mm_add_epi32(cdgh[lane], cdgh_before[lane]);
        }
    }
    for (int lane = 0; lane < count; lane++)
        sha256_store(lanes[lane].chain, abef[lane], cdgh[lane]);
}

SHA256_CODE static void sha256_one(const sha256_lane *lanes, size_t blocks) { sha256_rounds(lanes, blocks, 1); }
SHA256_CODE static void sha256_two(const sha256_lane *lanes, size_t blocks) { sha256_rounds(lanes, blocks, 2); }
SHA256_CODE static void sha256_three(const sha256_lane *lanes, size_t blocks) { sha256_rounds(lanes, blocks, 3); }
SHA256_CODE static void sha256_four(const sha256_lane *lanes, size_t blocks) { sha256_rounds(lanes, blocks, 4); }

/* The blocks that all of `count` lanes have; drops the lanes that have none left and returns how many stay. */
static size_t sha256_step(sha256_lane *lanes, size_t count)
{
    static void (*const kernels[SHA256_LANES])(const sha256_lane *, size_t) = {sha256_one, sha256_two, sha256_three,
                                                                               sha256_four};
    size_t blocks = lanes[0].blocks, left = 0;
    for (size_t i = 1; i < count; i++)
        blocks = lanes[i].blocks < blocks ? lanes[i].blocks : blocks;
    kernels[count - 1](lanes, blocks);
    for (size_t i = 0; i < count; i++) {
        sha256_lane lane = {lanes[i].chain, lanes[i].at + blocks * SHA256_BLOCK, lanes[i].blocks - blocks};
        if (lane.blocks)
            lanes[left++] = lane;
    }
    return left;
}

/* Take bytes that complete an open block, or as many as there are. */
static void sha256_fill_block(sha256_piece *piece)
{
    sha256_stream *stream = piece->stream;
    size_t filled = stream->bytes % SHA256_BLOCK, room = SHA256_BLOCK - filled;
    size_t taken = piece->length < room ? piece->length : room;
    sha256_lane lane = {stream->chain, stream->rest, 1};
    memcpy(stream->rest + filled, piece->at, taken);
    stream->bytes += taken;
    piece->at += taken;
    piece->length -= taken;
    if (taken == room)
        sha256_one(&lane, 1);
}

/* Take each piece, whose stream stands in no other. The pieces are used up. */
static void sha256_update(sha256_piece *pieces, size_t count)
{
    sha256_lane lanes[SHA256_LANES];
    size_t running = 0;
    for (size_t next = 0; next < count || running;) {
        while (running < SHA256_LANES && next < count) {
            sha256_piece *piece = &pieces[next++];
            if (piece->length && piece->stream->bytes % SHA256_BLOCK)
                sha256_fill_block(piece);
            if (piece->length >= SHA256_BLOCK)
                lanes[running++] = (sha256_lane){piece->stream->chain, piece->at, piece->length / SHA256_BLOCK};
        }
        if (running)
            running = sha256_step(lanes, running);
    }
    for (size_t i = 0; i < count; i++) {
        size_t whole = pieces[i].length - pieces[i].length % SHA256_BLOCK;
        pieces[i].stream->bytes += whole;
        pieces[i].at += whole;
        pieces[i].length -= whole;
        if (pieces[i].length)
            sha256_fill_block(&pieces[i]);
    }
}

/* The digest of all bytes so far; the stream can go on. */
static void sha256_end(const sha256_stream *stream, uint8_t digest[32])
{
    static const uint8_t padding[SHA256_BLOCK] = {0x80};
    sha256_stream last = *stream;
    uint64_t bits = __builtin_bswap64(stream->bytes * 8);
    size_t filled = stream->bytes % SHA256_BLOCK;
    sha256_piece pad = {&last, padding, (filled < 56 ? 56 : 120) - filled};
    sha256_update(&pad, 1);
    pad = (sha256_piece){&last, (const uint8_t *)&bits, sizeof bits};
    sha256_update(&pad, 1);
    for (int i = 0; i < 8; i++)
        last.chain[i] = __builtin_bswap32(last.chain[i]);
    memcpy(digest, last.chain, sizeof last.chain);
}

#else

static int sha256_is_native(void) { return 0; }
static void sha256_update(sha256_piece *pieces, size_t count) { (void)pieces, (void)count; }
static void sha256_end(const sha256_stream *stream, uint8_t digest[32]) { (void)stream, (void)digest; }

#endif
#endif
