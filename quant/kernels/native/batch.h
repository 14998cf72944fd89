/* The unit of work: up to 16 superblocks of consecutive values, their sub-blocks seen as lanes, and half floats. */
#ifndef BATCH_H
#define BATCH_H

#include "lanes.h"

enum { SUPERBLOCK = 256, BATCH_SUPERBLOCKS = 16, BATCH_VALUES = SUPERBLOCK * BATCH_SUPERBLOCKS, MAX_SUB = 256 };

/* Below this a sub-block counts as zeros. */
#define TINY 1e-15f

struct batch {
    const float *x;       /* BATCH_VALUES floats, the unused ones zero */
    int n_values;         /* how many of them count */
    int64_t first;        /* position of x[0] in the whole array of rows */
    int64_t width;        /* values in a row */
    const float *imatrix; /* one weight for each column, or NULL */
    uint8_t *out;
};

FORCE_INLINE const float *weights_at(const struct batch *b, int offset) {
    return b->imatrix + (b->first + offset) % b->width;
}

/* Sub-blocks [start/length, start/length + LANES) as lanes. */
FORCE_INLINE void load_values(const struct batch *b, int start, int length, vf *x) {
    const float *runs[LANES];
    for (int lane = 0; lane < LANES; lane++) runs[lane] = b->x + start + lane * length;
    load_runs(runs, length, x);
}

FORCE_INLINE void load_weights(const struct batch *b, int start, int length, vf *w) {
    const float *runs[LANES];
    for (int lane = 0; lane < LANES; lane++) runs[lane] = weights_at(b, start + lane * length);
    load_runs(runs, length, w);
}

/* Sum of squares of each superblock, added in order. */
static void superblock_energy(const struct batch *b, float energy[BATCH_SUPERBLOCKS]) {
    for (int block = 0; block * SUPERBLOCK < b->n_values; block += LANES) {
        const float *runs[LANES];
        vf sum = splat(0);
        for (int i = 0; i < SUPERBLOCK; i += LANES) {
            vf x[LANES];
            for (int lane = 0; lane < LANES; lane++) runs[lane] = b->x + (block + lane) * SUPERBLOCK + i;
            load_runs(runs, LANES, x);
            for (int lane = 0; lane < LANES; lane++) sum = sum + x[lane] * x[lane];
        }
        store(energy + block, sum);
    }
}

/* weight = importance * sqrt(sigma2 + x^2), sigma2 = factor * mean square of the lane's superblock. */
FORCE_INLINE void importance_weights(
    const struct batch *b, int start, int length, const float *energy, float factor, const vf *x, vf *w
) {
    float sigma[LANES];
    for (int lane = 0; lane < LANES; lane++)
        sigma[lane] = factor * energy[(start + lane * length) / SUPERBLOCK] / (float)SUPERBLOCK;
    vf sigma2 = load(sigma);
    load_weights(b, start, length, w);
    for (int i = 0; i < length; i++) w[i] = w[i] * root(sigma2 + x[i] * x[i]);
}

FORCE_INLINE uint16_t half_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (bits < 0x38800000u) { /* a subnormal half: its unit is the last place of 0.5f */
        float shifted;
        memcpy(&shifted, &bits, sizeof shifted);
        shifted += 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    bits += 0xfffu + ((bits >> 13) & 1u);
    return (uint16_t)(sign | ((bits - 0x38000000u) >> 13));
}

FORCE_INLINE float float_of_half(uint16_t half) {
    uint32_t exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu, bits;
    float value;
    if (exponent == 0) {
        value = (float)mantissa * 0x1p-24f;
    } else {
        bits = (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | mantissa << 13;
        memcpy(&value, &bits, sizeof value);
    }
    return half & 0x8000u ? -value : value;
}

FORCE_INLINE void put_half(uint8_t *out, uint16_t half) { memcpy(out, &half, sizeof half); }

/* levels[i] = clamp(round((x[i] + shift) / step)) + offset, for one sub-block in its natural order. */
FORCE_INLINE void divide_levels(const float *x, int n, float shift, float step, int low, int high, int offset, uint8_t *levels) {
    for (int i = 0; i < n; i++) {
        int level = round_scalar((x[i] + shift) / step);
        level = level > high ? high : level;
        levels[i] = (uint8_t)((level < low ? low : level) + offset);
    }
}

/* The same with a factor: the levels that the search itself settled on. */
FORCE_INLINE void multiply_levels(const float *x, int n, float origin, float factor, int low, int high, int offset, uint8_t *levels) {
    for (int i = 0; i < n; i++) {
        int level = round_scalar(factor * (x[i] - origin));
        level = level > high ? high : level;
        levels[i] = (uint8_t)((level < low ? low : level) + offset);
    }
}

/* 2-bit levels of 128 values, 32 apart, share a byte (Q2_K, Q3_K). */
FORCE_INLINE void pack_two_bits(const uint8_t *levels, uint8_t *out) {
    for (int half = 0; half < 2; half++) {
        const uint8_t *l = levels + 128 * half;
        for (int i = 0; i < 32; i++)
            out[32 * half + i] = (uint8_t)(l[i] | l[i + 32] << 2 | l[i + 64] << 4 | l[i + 96] << 6);
    }
}

#endif
