/* IQ4_NL and IQ4_XS: scale * one of 16 fixed values. A lane is one block of 32 values. */
#ifndef NONLINEAR_H
#define NONLINEAR_H

#include "batch.h"

enum { IQ4_NL_BYTES = 18, IQ4_XS_BYTES = 136, IQ4_LENGTH = 32 };

static const float IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* x is nearest to value i+1 or a later one exactly when x >= IQ4_MIDDLES[i]: near a middle, the two differences that
 * ggml compares are exact. NaN counts as beyond the last, as in ggml's bisection. */
static const float IQ4_MIDDLES[16] = {
    -115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101, 0,
};

#if LANES == 16
FORCE_INLINE vi nearest_index(vf x) {
    const vf middles = load(IQ4_MIDDLES);
    vi index = _mm512_setzero_si512();
    for (int step = 8; step; step /= 2) {
        vf middle = _mm512_permutexvar_ps(_mm512_add_epi32(index, splat_int(step - 1)), middles);
        vm beyond = _mm512_cmp_ps_mask(x, middle, _CMP_NLT_UQ);
        index = _mm512_mask_add_epi32(index, beyond, index, splat_int(step));
    }
    return index;
}
FORCE_INLINE vf nearest_value(vf x) { return _mm512_permutexvar_ps(nearest_index(x), load(IQ4_VALUES)); }

#elif LANES == 8
FORCE_INLINE vf pick(const float table[16], vi index) {
    vf low = _mm256_permutevar8x32_ps(load(table), index), high = _mm256_permutevar8x32_ps(load(table + 8), index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
FORCE_INLINE vi nearest_index(vf x) {
    vi index = _mm256_setzero_si256();
    for (int step = 8; step; step /= 2) {
        vf middle = step == 8 ? splat(IQ4_MIDDLES[7]) : pick(IQ4_MIDDLES, _mm256_add_epi32(index, splat_int(step - 1)));
        vi beyond = _mm256_castps_si256(_mm256_cmp_ps(x, middle, _CMP_NLT_UQ));
        index = _mm256_add_epi32(index, _mm256_and_si256(beyond, splat_int(step)));
    }
    return index;
}
FORCE_INLINE vf nearest_value(vf x) { return pick(IQ4_VALUES, nearest_index(x)); }

#else
FORCE_INLINE vi nearest_index(vf x) {
    vi index = _mm_setzero_si128();
    for (int i = 0; i < 15; i++) index = _mm_sub_epi32(index, _mm_castps_si128(_mm_cmpnlt_ps(x, splat(IQ4_MIDDLES[i]))));
    return index;
}
FORCE_INLINE vf nearest_value(vf x) {
    vf value = splat(IQ4_VALUES[0]);
    for (int i = 0; i < 15; i++)
        value = value + _mm_and_ps(_mm_cmpnlt_ps(x, splat(IQ4_MIDDLES[i])), splat(IQ4_VALUES[i + 1] - IQ4_VALUES[i]));
    return value;
}
#endif

FORCE_INLINE void nonlinear_sums(const vf *x, const vf *w, vf factor, vf *sum_qx, vf *sum_q2) {
    vf qx = splat(0), q2 = splat(0);
    for (int i = 0; i < IQ4_LENGTH; i++) {
        vf value = nearest_value(factor * x[i]), weighted = w[i] * value;
        qx = qx + weighted * x[i];
        q2 = q2 + weighted * value;
    }
    *sum_qx = qx;
    *sum_q2 = q2;
}

static vf nonlinear_search(const vf *x, const vf *w) {
    vf size = splat(0), most = splat(0), sum_qx, sum_q2;
    for (int i = 0; i < IQ4_LENGTH; i++) {
        vf m = magnitude(x[i]);
        vm larger = less(size, m);
        size = choose(larger, m, size);
        most = choose(larger, x[i], most);
    }
    const vm zero = less(size, splat(TINY));
    nonlinear_sums(x, w, splat(1) / ((splat(0) - most) / splat(IQ4_VALUES[0])), &sum_qx, &sum_q2);
    vf scale = choose(less(splat(0), sum_q2), sum_qx / sum_q2, splat(0)), best = scale * sum_qx;
    for (int try = -7; try <= 7; try++) {
        nonlinear_sums(x, w, splat((float)try + IQ4_VALUES[0]) / most, &sum_qx, &sum_q2);
        vm better = both(less(splat(0), sum_q2), less(best * sum_q2, sum_qx * sum_qx));
        vf new_scale = sum_qx / sum_q2;
        scale = choose(better, new_scale, scale);
        best = choose(better, new_scale * sum_qx, best);
    }
    return choose(zero, splat(0), scale);
}

/* 32 values as nibbles: the first 16 low, the others high. */
FORCE_INLINE void put_indices(const float *x, float factor, uint8_t *out) {
    int32_t index[IQ4_LENGTH];
    for (int i = 0; i < IQ4_LENGTH; i += LANES) store_int(index + i, nearest_index(splat(factor) * load(x + i)));
    for (int i = 0; i < 16; i++) out[i] = (uint8_t)(index[i] | index[i + 16] << 4);
}

/* `energy` holds a sum of squares for each superblock; NULL: each lane's own 32 values count. */
FORCE_INLINE void nonlinear_scales(const struct batch *b, const float *energy, float *scale) {
    vf x[IQ4_LENGTH], w[IQ4_LENGTH];
    for (int start = 0; start < b->n_values; start += LANES * IQ4_LENGTH) {
        load_values(b, start, IQ4_LENGTH, x);
        if (b->imatrix) {
            float sums[LANES];
            vf sigma2 = splat(0);
            for (int lane = 0; energy && lane < LANES; lane++)
                sums[lane] = energy[(start + lane * IQ4_LENGTH) / SUPERBLOCK] * (2.f / SUPERBLOCK);
            for (int i = 0; !energy && i < IQ4_LENGTH; i++) sigma2 = sigma2 + x[i] * x[i];
            sigma2 = sigma2 * splat(2.f / IQ4_LENGTH);
            if (energy) sigma2 = load(sums);
            load_weights(b, start, IQ4_LENGTH, w);
            for (int i = 0; i < IQ4_LENGTH; i++) w[i] = w[i] * root(sigma2 + x[i] * x[i]);
        } else {
            for (int i = 0; i < IQ4_LENGTH; i++) w[i] = x[i] * x[i];
        }
        store(scale + start / IQ4_LENGTH, nonlinear_search(x, w));
    }
}

static void batch_iq4_nl(const struct batch *b) {
    float scale[BATCH_VALUES / IQ4_LENGTH];
    nonlinear_scales(b, NULL, scale);
    for (int i = 0; i < b->n_values / IQ4_LENGTH; i++) {
        uint8_t *out = b->out + IQ4_NL_BYTES * i;
        put_half(out, half_of(scale[i]));
        put_indices(b->x + IQ4_LENGTH * i, scale[i] != 0 ? 1 / scale[i] : 0, out + 2);
    }
}

static void put_iq4_xs(const float *x, const float *scale, uint8_t *out) {
    float most = 0, largest = 0;
    uint8_t low[4] = {0};
    uint16_t high = 0;
    for (int i = 0; i < 8; i++) {
        float m = scale[i] < 0 ? -scale[i] : scale[i];
        if (m > most) most = m, largest = scale[i];
    }
    const float d = -largest / 32, inverse = d != 0 ? 1 / d : 0.f;
    for (int i = 0; i < 8; i++) {
        int level = round_scalar(inverse * scale[i]);
        level = level > 31 ? 31 : level < -32 ? -32 : level;
        const float step = d * (float)level;
        put_indices(x + IQ4_LENGTH * i, step != 0 ? 1 / step : 0.f, out + 8 + 16 * i);
        low[i / 2] |= (uint8_t)(((level + 32) & 15) << 4 * (i % 2));
        high |= (uint16_t)((level + 32) >> 4 << 2 * i);
    }
    put_half(out, half_of(d));
    memcpy(out + 2, &high, 2);
    memcpy(out + 4, low, 4);
}

static void batch_iq4_xs(const struct batch *b) {
    float scale[BATCH_VALUES / IQ4_LENGTH], energy[BATCH_SUPERBLOCKS];
    if (b->imatrix) superblock_energy(b, energy);
    nonlinear_scales(b, energy, scale);
    for (int block = 0; block < b->n_values / SUPERBLOCK; block++)
        put_iq4_xs(b->x + SUPERBLOCK * block, scale + 8 * block, b->out + IQ4_XS_BYTES * block);
}

#endif
