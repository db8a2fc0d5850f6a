/*
 * What an output's bytes hold: order, equality and difference of its elements, on a sample of them or on all.
 *
 * Elements are compared by their keys: signed integers that order as the values do. NaN lies beyond the infinities, so that
 * the lowest and the highest key tell of it too; -0.0 is next to 0.0 (keys -1 and 0).
 *
 * Invariant: nothing is read outside of `size` bytes from `data`, however these are aligned.
 */
#ifndef WATCHDOGD_SCAN_H
#define WATCHDOGD_SCAN_H

#include "watchdogd.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { SCAN_BLOCK = WATCHDOGD_BLOCK }; /* a sample is of whole blocks */
enum scan_kind {
    SCAN_SIGNED = WATCHDOGD_KEY_SIGNED,
    SCAN_UNSIGNED = WATCHDOGD_KEY_UNSIGNED,
    SCAN_FLOAT = WATCHDOGD_KEY_FLOAT,
    SCAN_BFLOAT = WATCHDOGD_KEY_BFLOAT,
    SCAN_KINDS
};

/* The `index`-th block; the last one's rest is filled up with its own first `unit` bytes. */
static inline const unsigned char *scan_block_(
    const unsigned char *data, size_t size, size_t index, size_t unit, unsigned char *spare)
{
    const unsigned char *block = data + index * SCAN_BLOCK;
    size_t length = size - index * SCAN_BLOCK;
    if (length >= SCAN_BLOCK)
        return block;
    memcpy(spare, block, length);
    for (size_t at = length; at < SCAN_BLOCK; at += unit)
        memcpy(spare + at, block, unit);
    return spare;
}

/* Vectors of 16 bytes: one register of every machine meant here, whatever -O says. */
#define SCAN_WIDTH(BITS)                                                                                                   \
    typedef int##BITS##_t scan_keys##BITS __attribute__((vector_size(16)));                                                \
    typedef uint##BITS##_t scan_bits##BITS __attribute__((vector_size(16)));                                               \
    static inline void scan##BITS##_(                                                                                      \
        const unsigned char *data, size_t size, enum scan_kind kind, size_t first, size_t step, int64_t *low, int64_t *high) \
    {                                                                                                                      \
        enum { LANES = 128 / BITS };                                                                                       \
        unsigned char spare[SCAN_BLOCK];                                                                                   \
        const scan_bits##BITS zero = {0}, top = (~zero >> 1) + 1;                                                          \
        const scan_bits##BITS flip = kind == SCAN_UNSIGNED ? top : zero, below = kind >= SCAN_FLOAT ? ~top : zero;         \
        scan_keys##BITS lowest = (scan_keys##BITS) ~top, highest = (scan_keys##BITS)top;                                   \
        for (size_t index = first; index * SCAN_BLOCK < size; index += step) {                                             \
            const unsigned char *block = scan_block_(data, size, index, BITS / 8, spare);                                  \
            for (size_t at = 0; at < SCAN_BLOCK; at += 16) {                                                               \
                scan_bits##BITS bits;                                                                                      \
                memcpy(&bits, block + at, sizeof bits);                                                                    \
                scan_keys##BITS key = (scan_keys##BITS)(bits ^ flip ^ ((scan_bits##BITS)((scan_keys##BITS)bits < 0) & below)); \
                scan_keys##BITS less = key < lowest, more = key > highest;                                                 \
                lowest = (key & less) | (lowest & ~less);                                                                  \
                highest = (key & more) | (highest & ~more);                                                                \
            }                                                                                                              \
        }                                                                                                                  \
        for (int lane = 0; lane < LANES; lane++) {                                                                         \
            *low = lowest[lane] < *low ? lowest[lane] : *low;                                                              \
            *high = highest[lane] > *high ? highest[lane] : *high;                                                         \
        }                                                                                                                  \
    }

SCAN_WIDTH(8)
SCAN_WIDTH(16)
SCAN_WIDTH(32)
SCAN_WIDTH(64)

/* Lowest and highest key of the elements (`width` bytes each) in every `step`-th block from `first` on. */
static inline void scan_range(
    const unsigned char *data, size_t size, size_t width, enum scan_kind kind, size_t first, size_t step, int64_t *low,
    int64_t *high)
{
    *low = INT64_MAX;
    *high = INT64_MIN;
    switch (width) {
    case 1: scan8_(data, size, kind, first, step, low, high); break;
    case 2: scan16_(data, size, kind, first, step, low, high); break;
    case 4: scan32_(data, size, kind, first, step, low, high); break;
    default: scan64_(data, size, kind, first, step, low, high); break;
    }
}

/* Whether all elements are equal, -0.0 and 0.0 too. Ends at the first that is not. */
static inline int scan_uniform(const unsigned char *data, size_t size, size_t width, enum scan_kind kind)
{
    unsigned char spare[SCAN_BLOCK], sign[8] = {0};
    uint64_t pattern, mask;
    for (size_t at = 0; size && at < sizeof pattern; at += width)
        memcpy((unsigned char *)&pattern + at, data, width);
    /* The sign bits of all elements in a word. */
    for (size_t at = 0; at < sizeof sign; at += width)
        sign[__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? at + width - 1 : at] = 0x80;
    memcpy(&mask, sign, sizeof mask);
    if (!size)
        return 1;
    mask = kind >= SCAN_FLOAT && (pattern & ~mask) == 0 ? ~mask : ~UINT64_C(0);
    for (size_t index = 0; index * SCAN_BLOCK < size; index++) {
        const unsigned char *block = scan_block_(data, size, index, width, spare);
        uint64_t different = 0, word;
        for (size_t at = 0; at < SCAN_BLOCK; at += sizeof word) {
            memcpy(&word, block + at, sizeof word);
            different |= (word ^ pattern) & mask;
        }
        if (different)
            return 0;
    }
    return 1;
}

/* Of every `step`-th block from the first on. A rotation after each product: else a sign bit would only meet sign bits. */
static inline uint64_t scan_digest(const unsigned char *data, size_t size, size_t step)
{
    const uint64_t odd = UINT64_C(0x9E3779B97F4A7C15);
    unsigned char spare[SCAN_BLOCK];
    uint64_t lanes[4] = {size, 1, 2, 3}, digest = 0, word;
    for (size_t index = 0; index * SCAN_BLOCK < size; index += step) {
        const unsigned char *block = scan_block_(data, size, index, 1, spare);
        for (size_t at = 0; at < SCAN_BLOCK; at += sizeof word) {
            uint64_t *lane = &lanes[at / sizeof word % 4];
            memcpy(&word, block + at, sizeof word);
            *lane = (*lane ^ word) * odd;
            *lane = *lane << 29 | *lane >> 35;
        }
    }
    for (int lane = 0; lane < 4; lane++) {
        digest = (digest ^ lanes[lane]) * odd;
        digest ^= digest >> 32;
    }
    return digest;
}

static inline double scan_value_(const unsigned char *element, size_t width, enum scan_kind kind)
{
    union {
        uint64_t bits;
        uint32_t half_bits[2];
        double number;
        float single;
    } x = {0};
    if (kind == SCAN_UNSIGNED || kind == SCAN_SIGNED) {
        uint64_t value = 0;
        memcpy(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? (unsigned char *)&value : (unsigned char *)&value + 8 - width,
               element, width);
        unsigned unused = 64 - 8 * (unsigned)width;
        return kind == SCAN_UNSIGNED ? (double)value : (double)((int64_t)(value << unused) >> unused);
    }
    if (width == 8) {
        memcpy(&x.number, element, 8);
        return x.number;
    }
    if (width == 4) {
        memcpy(&x.single, element, 4);
        return (double)x.single;
    }
    uint16_t bits;
    memcpy(&bits, element, 2);
    if (kind == SCAN_BFLOAT) {
        x.half_bits[0] = (uint32_t)bits << 16;
        return (double)x.single;
    }
    double magnitude = (bits & 0x7C00) == 0 ? (bits & 0x3FF) * 0x1p-24 : 0;
    if ((bits & 0x7C00) == 0x7C00)
        magnitude = bits & 0x3FF ? (double)NAN : (double)INFINITY;
    else if (bits & 0x7C00) {
        x.half_bits[0] = ((uint32_t)(bits & 0x7FFF) << 13) + (UINT32_C(112) << 23);
        magnitude = (double)x.single;
    }
    return bits & 0x8000 ? -magnitude : magnitude;
}

/* Largest difference of two elements at the same place; infinite where one of them is not finite and the other is not that. */
static inline double scan_deviation(
    const unsigned char *left, const unsigned char *right, size_t size, size_t width, enum scan_kind kind)
{
    double largest = 0;
    for (size_t at = 0; at + width <= size; at += width) {
        if (memcmp(left + at, right + at, width) == 0)
            continue;
        double difference = fabs(scan_value_(left + at, width, kind) - scan_value_(right + at, width, kind));
        largest = difference <= largest ? largest : isfinite(difference) ? difference : (double)INFINITY;
    }
    return largest;
}

#endif
