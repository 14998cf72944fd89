/* Types whose values are scale * level with signed levels: Q3_K and Q6_K. A lane is one sub-block of 16 values. */
#ifndef SYMMETRIC_H
#define SYMMETRIC_H

#include "batch.h"

enum { Q3_K_BYTES = 110, Q6_K_BYTES = 210, SYMMETRIC_LENGTH = 16, SYMMETRIC_SUB = 16 };

/* The value of largest magnitude, the first one where several are equal. */
FORCE_INLINE vf extreme(const vf *x, vf *size) {
    vf most = splat(0), value = splat(0);
    for (int i = 0; i < SYMMETRIC_LENGTH; i++) {
        vf m = magnitude(x[i]);
        vm larger = less(most, m);
        most = choose(larger, m, most);
        value = choose(larger, x[i], value);
    }
    *size = most;
    return value;
}

/* Levels -top..top-1: tries 19 grids around the one that gives the extreme value the level -top. `best_factor` gives
 * the levels, round(factor * x); it is 0 in lanes of zeros, whose stored levels are 0 too. */
static inline vf signed_search(const vf *x, const vf *w, int top, vf *best_factor) {
    vf size, wx[SYMMETRIC_LENGTH];
    const vf most = extreme(x, &size);
    const vm zero = less(size, splat(TINY));
    vf scale = splat(0), best = splat(0), kept = splat(0);
    for (int i = 0; i < SYMMETRIC_LENGTH; i++) wx[i] = w[i] * x[i];
    for (int try = -10; try <= 9; try++) {
        if (try == 0) continue;
        /* try -10 stands for the middle grid, which ggml takes first */
        const float offset = try == -10 ? -(float)top : -((float)top + 0.1f * (float)try);
        vf factor = choose(zero, splat(0), splat(offset) / most);
        vf sum_xl = splat(0), sum_l2 = splat(0);
        for (int i = 0; i < SYMMETRIC_LENGTH; i++) {
            vf level = clamp(round_lanes(factor * x[i], 1), -(float)top, (float)(top - 1));
            sum_xl = sum_xl + wx[i] * level;
            sum_l2 = sum_l2 + w[i] * level * level;
        }
        vf new_scale = sum_xl / sum_l2;
        if (try == -10) {
            scale = choose(equal(sum_l2, splat(0)), splat(0), new_scale);
            best = scale * sum_xl;
            kept = factor;
            continue;
        }
        vm better = both(less(splat(0), sum_l2), less(best * sum_l2, sum_xl * sum_xl));
        scale = choose(better, new_scale, scale);
        best = choose(better, new_scale * sum_xl, best);
        kept = choose(better, factor, kept);
    }
    *best_factor = kept;
    return choose(zero, splat(0), scale);
}

/* Q3_K without an importance matrix: from the first grid, move one level at a time while the fit improves. */
static inline vf signed_descent(const vf *x, int top, vf *levels) {
    vf size, wx[SYMMETRIC_LENGTH], w[SYMMETRIC_LENGTH], sum_xl = splat(0), sum_l2 = splat(0);
    const vf most = extreme(x, &size);
    const vm zero = less(size, splat(TINY));
    const vf factor = choose(zero, splat(0), splat(-(float)top) / most);
    for (int i = 0; i < SYMMETRIC_LENGTH; i++) {
        w[i] = x[i] * x[i];
        wx[i] = w[i] * x[i];
        levels[i] = clamp(round_lanes(factor * x[i], 1), -(float)top, (float)(top - 1));
        sum_xl = sum_xl + wx[i] * levels[i];
        sum_l2 = sum_l2 + w[i] * levels[i] * levels[i];
    }
    for (int round = 0; round < 5; round++) {
        int changed = 0;
        for (int i = 0; i < SYMMETRIC_LENGTH; i++) {
            vf rest_xl = sum_xl - wx[i] * levels[i];
            vf rest_l2 = sum_l2 - w[i] * levels[i] * levels[i];
            vm open = except(less(splat(0), rest_xl), zero);
            vf level = clamp(round_any(x[i] * rest_l2 / rest_xl), -(float)top, (float)(top - 1));
            open = except(open, equal(level, levels[i]));
            rest_xl = rest_xl + wx[i] * level;
            rest_l2 = rest_l2 + w[i] * level * level;
            vm better = both(open, less(splat(0), rest_l2));
            better = both(better, less(sum_xl * sum_xl * rest_l2, rest_xl * rest_xl * sum_l2));
            levels[i] = choose(better, level, levels[i]);
            sum_xl = choose(better, rest_xl, sum_xl);
            sum_l2 = choose(better, rest_l2, sum_l2);
            changed |= any(better);
        }
        if (!changed) break;
    }
    for (int i = 0; i < SYMMETRIC_LENGTH; i++)
        levels[i] = choose(zero, splat(0), levels[i] + splat((float)top));
    return choose(except(less(splat(0), sum_l2), zero), sum_xl / sum_l2, splat(0));
}

/* The scale of largest magnitude, the first where several are equal. */
FORCE_INLINE float extreme_scale(const float *scale) {
    float most = 0, value = 0;
    for (int i = 0; i < SYMMETRIC_SUB; i++) {
        float m = scale[i] < 0 ? -scale[i] : scale[i];
        if (m > most) most = m, value = scale[i];
    }
    return value;
}

/* The levels the search settled on, for sub-blocks whose stored scale became zero. */
FORCE_INLINE void searched_levels(const float *x, float factor, int top, uint8_t *levels) {
    if (factor == 0)
        memset(levels, 0, SYMMETRIC_LENGTH);
    else
        multiply_levels(x, SYMMETRIC_LENGTH, 0, factor, -top, top - 1, top, levels);
}

static void pack_q6_k(const uint8_t *levels, uint8_t *out) {
    for (int half = 0; half < 2; half++) {
        const uint8_t *l = levels + 128 * half;
        uint8_t *low = out + 64 * half, *high = out + 128 + 32 * half;
        for (int i = 0; i < 32; i++) {
            low[i] = (uint8_t)((l[i] & 15) | (l[i + 64] & 15) << 4);
            low[i + 32] = (uint8_t)((l[i + 32] & 15) | (l[i + 96] & 15) << 4);
            high[i] = (uint8_t)(l[i] >> 4 | (l[i + 32] >> 4) << 2 | (l[i + 64] >> 4) << 4 | (l[i + 96] >> 4) << 6);
        }
    }
}

static void put_q6_k(const float *x, const float *scale, const float *factor, uint8_t *out) {
    uint8_t levels[SUPERBLOCK];
    const float most = extreme_scale(scale);
    if ((most < 0 ? -most : most) < TINY) {
        memset(out, 0, Q6_K_BYTES);
        return;
    }
    const float inverse = -128.f / most;
    const uint16_t d = half_of(1 / inverse);
    for (int i = 0; i < SYMMETRIC_SUB; i++) {
        int step = round_scalar(inverse * scale[i]);
        int8_t stored = (int8_t)(step < 127 ? step : 127);
        float size = float_of_half(d) * (float)stored;
        memcpy(out + 192 + i, &stored, 1);
        if (size != 0)
            divide_levels(x + 16 * i, 16, 0, size, -32, 31, 32, levels + 16 * i);
        else
            searched_levels(x + 16 * i, factor[i], 32, levels + 16 * i);
    }
    pack_q6_k(levels, out);
    put_half(out + 208, d);
}

static void batch_q6_k(const struct batch *b) {
    vf x[SYMMETRIC_LENGTH], w[SYMMETRIC_LENGTH], kept;
    float scale[MAX_SUB], factor[MAX_SUB];
    for (int start = 0; start < b->n_values; start += LANES * SYMMETRIC_LENGTH) {
        load_values(b, start, SYMMETRIC_LENGTH, x);
        if (b->imatrix)
            load_weights(b, start, SYMMETRIC_LENGTH, w);
        else
            for (int i = 0; i < SYMMETRIC_LENGTH; i++) w[i] = x[i] * x[i];
        store(scale + start / SYMMETRIC_LENGTH, signed_search(x, w, 32, &kept));
        store(factor + start / SYMMETRIC_LENGTH, kept);
    }
    for (int block = 0; block < b->n_values / SUPERBLOCK; block++)
        put_q6_k(b->x + SUPERBLOCK * block, scale + 16 * block, factor + 16 * block, b->out + Q6_K_BYTES * block);
}

/* Sixteen 6-bit numbers in 12 bytes. */
FORCE_INLINE void pack_q3_k_scales(const uint8_t *scale, uint8_t out[12]) {
    memset(out, 0, 12);
    for (int i = 0; i < 8; i++) out[i] = (uint8_t)((scale[i] & 15) | (scale[i + 8] & 15) << 4);
    for (int i = 0; i < 16; i++) out[8 + i % 4] |= (uint8_t)((scale[i] >> 4 & 3) << 2 * (i / 4));
}

/* `levels` come in as the search left them and stay where the stored scale is zero. */
static void put_q3_k(const float *x, const uint8_t *scale, float step, uint8_t *levels, uint8_t *out) {
    const uint16_t d = half_of(step);
    for (int i = 0; i < SYMMETRIC_SUB; i++) {
        float size = float_of_half(d) * (float)(scale[i] - 32);
        if (size != 0) divide_levels(x + 16 * i, 16, 0, size, -4, 3, 4, levels + 16 * i);
    }
    for (int i = 0; i < 32; i++) {
        uint8_t high = 0;
        for (int bit = 0; bit < 8; bit++) high |= (uint8_t)((levels[32 * bit + i] >> 2 & 1) << bit);
        out[i] = high;
    }
    for (int i = 0; i < SUPERBLOCK; i++) levels[i] &= 3;
    pack_two_bits(levels, out + 32);
    pack_q3_k_scales(scale, out + 96);
    put_half(out + 108, d);
}

static void batch_q3_k_plain(const struct batch *b) {
    vf x[SYMMETRIC_LENGTH], l[SYMMETRIC_LENGTH];
    float scale[MAX_SUB], column[LANES];
    uint8_t levels[BATCH_VALUES], stored[SYMMETRIC_SUB];
    for (int start = 0; start < b->n_values; start += LANES * SYMMETRIC_LENGTH) {
        load_values(b, start, SYMMETRIC_LENGTH, x);
        store(scale + start / SYMMETRIC_LENGTH, signed_descent(x, 4, l));
        for (int i = 0; i < SYMMETRIC_LENGTH; i++) {
            store(column, l[i]);
            for (int lane = 0; lane < LANES; lane++) levels[start + 16 * lane + i] = (uint8_t)column[lane];
        }
    }
    for (int block = 0; block < b->n_values / SUPERBLOCK; block++) {
        const float *s = scale + 16 * block;
        const float most = extreme_scale(s), inverse = -32.f / most;
        for (int i = 0; i < SYMMETRIC_SUB; i++) {
            int8_t step = (int8_t)round_scalar(inverse * s[i]);
            step = step < 31 ? step : 31;
            stored[i] = most != 0 ? (uint8_t)((step > -32 ? step : -32) + 32) : 0;
        }
        put_q3_k(b->x + SUPERBLOCK * block, stored, most != 0 ? 1 / inverse : 0.f, levels + SUPERBLOCK * block,
                 b->out + Q3_K_BYTES * block);
    }
}

static void batch_q3_k_weighted(const struct batch *b) {
    vf x[SYMMETRIC_LENGTH], w[SYMMETRIC_LENGTH], kept;
    float scale[MAX_SUB] = {0}, factor[MAX_SUB], weight[MAX_SUB] = {0};
    float step[BATCH_SUPERBLOCKS], step_factor[BATCH_SUPERBLOCKS], energy[BATCH_SUPERBLOCKS];
    uint8_t levels[SUPERBLOCK], stored[SYMMETRIC_SUB];
    superblock_energy(b, energy);
    for (int start = 0; start < b->n_values; start += LANES * SYMMETRIC_LENGTH) {
        vf sum = splat(0);
        load_values(b, start, SYMMETRIC_LENGTH, x);
        importance_weights(b, start, SYMMETRIC_LENGTH, energy, 2, x, w);
        for (int i = 0; i < SYMMETRIC_LENGTH; i++) sum = sum + w[i];
        store(weight + start / SYMMETRIC_LENGTH, sum);
        store(scale + start / SYMMETRIC_LENGTH, signed_search(x, w, 4, &kept));
        store(factor + start / SYMMETRIC_LENGTH, kept);
    }
    for (int block = 0; block < b->n_values / SUPERBLOCK; block += LANES) {
        const float *scales[LANES], *weights[LANES]; /* now a lane is a superblock, its values are scales */
        for (int lane = 0; lane < LANES; lane++) {
            scales[lane] = scale + 16 * (block + lane);
            weights[lane] = weight + 16 * (block + lane);
        }
        load_runs(scales, SYMMETRIC_SUB, x);
        load_runs(weights, SYMMETRIC_SUB, w);
        store(step + block, signed_search(x, w, 32, &kept));
        store(step_factor + block, kept);
    }
    for (int block = 0; block < b->n_values / SUPERBLOCK; block++) {
        const float *values = b->x + SUPERBLOCK * block;
        searched_levels(scale + 16 * block, step_factor[block], 32, stored);
        for (int i = 0; i < SYMMETRIC_SUB; i++)
            searched_levels(values + 16 * i, factor[16 * block + i], 4, levels + 16 * i);
        put_q3_k(values, stored, step[block], levels, b->out + Q3_K_BYTES * block);
    }
}

static void batch_q3_k(const struct batch *b) {
    if (b->imatrix)
        batch_q3_k_weighted(b);
    else
        batch_q3_k_plain(b);
}

#endif
