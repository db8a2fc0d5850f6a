/*
 * scan.h against a plain loop, on buffers that end where their memory does and begin at any address: for the sanitizers.
 * Prints what it looked at; exits 1 at the first difference.
 */
#include "scan.h"

static int64_t plain_key(const unsigned char *element, size_t width, enum scan_kind kind)
{
    uint64_t bits = 0, top = UINT64_C(1) << (8 * width - 1);
    for (size_t byte = 0; byte < width; byte++)
        bits |= (uint64_t)element[byte] << 8 * byte; /* of a little-endian machine */
    if (kind == SCAN_UNSIGNED)
        return (int64_t)(bits - top);
    if (kind >= SCAN_FLOAT)
        return bits & top ? -(int64_t)(bits & ~top) - 1 : (int64_t)bits;
    return bits & top && width < 8 ? (int64_t)bits - (int64_t)(2 * top) : (int64_t)bits;
}

static int fail(const char *what, size_t size, size_t width, enum scan_kind kind)
{
    printf("%s differs: %zu bytes of width %zu, kind %d\n", what, size, width, (int)kind);
    return 1;
}

static int compare(const unsigned char *data, size_t size, size_t width, enum scan_kind kind, size_t first, size_t step)
{
    int64_t low, high, lowest = INT64_MAX, highest = INT64_MIN;
    int uniform = 1, zero = kind >= SCAN_FLOAT;
    for (size_t at = 0; at < size; at += width) {
        int64_t key = plain_key(data + at, width, kind);
        uniform = uniform && key == plain_key(data, width, kind);
        zero = zero && (key == 0 || key == -1);
        if (at / SCAN_BLOCK % step != first)
            continue;
        lowest = key < lowest ? key : lowest;
        highest = key > highest ? key : highest;
    }
    scan_range(data, size, width, kind, first, step, &low, &high);
    if (low != lowest || high != highest)
        return fail("range", size, width, kind);
    if (scan_uniform(data, size, width, kind) != (uniform || zero))
        return fail("uniform", size, width, kind);
    if (scan_deviation(data, data, size, width, kind) > 0)
        return fail("deviation", size, width, kind);
    return scan_digest(data, size, 1) == scan_digest(data, size, 1) ? 0 : fail("digest", size, width, kind);
}

int main(void)
{
    static const struct {
        size_t width;
        enum scan_kind kind;
    } formats[] = {{1, SCAN_SIGNED}, {1, SCAN_UNSIGNED}, {2, SCAN_SIGNED}, {2, SCAN_UNSIGNED}, {2, SCAN_FLOAT},
                   {2, SCAN_BFLOAT}, {4, SCAN_SIGNED},   {4, SCAN_UNSIGNED}, {4, SCAN_FLOAT},  {8, SCAN_SIGNED},
                   {8, SCAN_UNSIGNED}, {8, SCAN_FLOAT}};
    uint64_t seed = 1;
    unsigned long compared = 0;
    for (size_t size = 0; size <= 1100; size += size % 256 > 16 && size % 256 < 240 ? 13 : 1) {
        for (size_t offset = 0; offset < 8; offset += 3) {
            unsigned char *memory = (unsigned char *)malloc(size + offset + !(size + offset)), *data = memory + offset;
            if (!memory)
                return 2;
            for (unsigned content = 0; content < 4; content++) {
                for (size_t at = 0; at < size; at++) {
                    seed = seed * UINT64_C(6364136223846793005) + 1;
                    data[at] = content == 0 ? 0 : content == 1 ? (unsigned char)(at % 8 == 7 ? seed >> 63 << 7 : 0)
                             : content == 2 ? (unsigned char)(0x11 * (at % 8)) : (unsigned char)(seed >> 56);
                }
                for (size_t row = 0; row < sizeof formats / sizeof *formats; row++) {
                    for (size_t step = 1; step < 4; step++) {
                        size_t first = (seed >> 40) % step;
                        if (size % formats[row].width || first * SCAN_BLOCK >= size)
                            continue;
                        if (compare(data, size, formats[row].width, formats[row].kind, first, step))
                            return 1;
                        compared++;
                    }
                }
            }
            scan_digest(data, size, 2);
            free(memory);
        }
    }
    printf("%lu\n", compared);
    return 0;
}
