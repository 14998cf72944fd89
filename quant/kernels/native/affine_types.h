/* Q2_K, Q4_K and Q5_K superblocks: from fits to bytes. */
#ifndef AFFINE_TYPES_H
#define AFFINE_TYPES_H

#include "affine.h"

enum { Q2_K_BYTES = 84, Q4_K_BYTES = 144, Q5_K_BYTES = 176 };

/* Superblock parameters of a batch: steps of scales and mins, and each sub-block's whole number of steps. */
struct steps {
    float scale[BATCH_SUPERBLOCKS], least[BATCH_SUPERBLOCKS];
    uint8_t scale_level[MAX_SUB], least_level[MAX_SUB];
};

/* weight of a value without an importance matrix */
enum weighting { MAGNITUDE, MAGNITUDE_OVER_MEAN };

FORCE_INLINE void plain_weights(const vf *x, int n, enum weighting kind, vf *w) {
    vf mean = splat(0);
    if (kind == MAGNITUDE_OVER_MEAN) {
        for (int i = 0; i < n; i++) mean = mean + x[i] * x[i];
        mean = root(mean / splat((float)n));
    }
    for (int i = 0; i < n; i++) w[i] = mean + magnitude(x[i]);
}

FORCE_INLINE void fit_batch(
    const struct batch *b, const struct grid plain, enum weighting kind, float sigma_factor, int step_top,
    struct fits *fits, struct steps *steps
) {
    const int length = plain.length, n_sub = SUPERBLOCK / length, n_blocks = b->n_values / SUPERBLOCK;
    const struct grid steered = {length, plain.top, -0.9f, 0.05f, 36, 0};
    float energy[BATCH_SUPERBLOCKS];
    vf x[32], w[32];

    if (b->imatrix) superblock_energy(b, energy);
    for (int start = 0; start < b->n_values; start += LANES * length) {
        load_values(b, start, length, x);
        if (b->imatrix) {
            importance_weights(b, start, length, energy, sigma_factor, x, w);
            affine_search(x, w, steered, fits, start / length);
        } else {
            plain_weights(x, length, kind, w);
            affine_search(x, w, plain, fits, start / length);
        }
    }
    if (b->imatrix) {
        importance_steps(fits->scale, fits->weight, n_sub, n_blocks, step_top, steps->scale, steps->scale_level);
        importance_steps(fits->least, fits->weight, n_sub, n_blocks, step_top, steps->least, steps->least_level);
    } else {
        plain_steps(fits->scale, n_sub, n_blocks, step_top, steps->scale, steps->scale_level);
        plain_steps(fits->least, n_sub, n_blocks, step_top, steps->least, steps->least_level);
    }
}

/* Final levels of sub-block `at`, with the scale and min as the file will hold them. */
FORCE_INLINE void affine_levels(
    const struct batch *b, const struct fits *fits, int at, int length, int top, float scale, float least, uint8_t *levels
) {
    const float *x = b->x + at * length;
    if (scale != 0)
        divide_levels(x, length, least, scale, 0, top, 0, levels);
    else
        multiply_levels(x, length, fits->origin[at], fits->factor[at], 0, top, 0, levels);
}

FORCE_INLINE uint8_t at_most(uint8_t level, uint8_t top) { return level < top ? level : top; }

/* Eight 6-bit scales and eight 6-bit mins in 12 bytes. */
FORCE_INLINE void pack_six_bits(const uint8_t *scale, const uint8_t *least, uint8_t out[12]) {
    for (int i = 0; i < 4; i++) {
        out[i] = (uint8_t)(scale[i] | (scale[i + 4] >> 4) << 6);
        out[i + 4] = (uint8_t)(least[i] | (least[i + 4] >> 4) << 6);
        out[i + 8] = (uint8_t)((scale[i + 4] & 15) | (least[i + 4] & 15) << 4);
    }
}

FORCE_INLINE void unpack_six_bits(const uint8_t in[12], uint8_t scale[8], uint8_t least[8]) {
    for (int i = 0; i < 4; i++) {
        scale[i] = in[i] & 63;
        least[i] = in[i + 4] & 63;
        scale[i + 4] = (uint8_t)((in[i + 8] & 15) | (in[i] >> 6) << 4);
        least[i + 4] = (uint8_t)((in[i + 8] >> 4) | (in[i + 4] >> 6) << 4);
    }
}

/* What Q4_K and Q5_K share: writes d, dmin and the packed scales, and finds the levels. */
FORCE_INLINE void put_k_header(
    const struct batch *b, const struct fits *fits, const struct steps *steps, int block, int top, uint8_t *out, uint8_t *levels
) {
    uint8_t scale[8], least[8];
    /* ggml bounds the levels to 6 bits everywhere but in Q4_K with an importance matrix. */
    const uint8_t bound = top == 15 && b->imatrix ? 255 : 63;
    for (int i = 0; i < 8; i++) {
        scale[i] = at_most(steps->scale_level[8 * block + i], bound);
        least[i] = at_most(steps->least_level[8 * block + i], bound);
    }
    const uint16_t d = half_of(steps->scale[block]), dmin = half_of(steps->least[block]);
    put_half(out, d);
    put_half(out + 2, dmin);
    pack_six_bits(scale, least, out + 4);
    unpack_six_bits(out + 4, scale, least);
    const float step = float_of_half(d), least_step = float_of_half(dmin);
    for (int i = 0; i < 8; i++)
        affine_levels(b, fits, 8 * block + i, 32, top, step * scale[i], least_step * least[i], levels + 32 * i);
}

static void batch_q4_k(const struct batch *b) {
    struct fits fits = {0};
    struct steps steps;
    uint8_t levels[SUPERBLOCK];
    fit_batch(b, (struct grid){32, 15, -1.f, 0.1f, 20, 0}, MAGNITUDE_OVER_MEAN, 2, 63, &fits, &steps);
    for (int block = 0; block < b->n_values / SUPERBLOCK; block++) {
        uint8_t *out = b->out + block * Q4_K_BYTES;
        put_k_header(b, &fits, &steps, block, 15, out, levels);
        for (int pair = 0; pair < 4; pair++)
            for (int i = 0; i < 32; i++)
                out[16 + 32 * pair + i] = (uint8_t)(levels[64 * pair + i] | levels[64 * pair + 32 + i] << 4);
    }
}

static void batch_q5_k(const struct batch *b) {
    struct fits fits = {0};
    struct steps steps;
    uint8_t levels[SUPERBLOCK];
    fit_batch(b, (struct grid){32, 31, -0.5f, 0.1f, 15, 0}, MAGNITUDE_OVER_MEAN, 2, 63, &fits, &steps);
    for (int block = 0; block < b->n_values / SUPERBLOCK; block++) {
        uint8_t *out = b->out + block * Q5_K_BYTES;
        put_k_header(b, &fits, &steps, block, 31, out, levels);
        for (int i = 0; i < 32; i++) {
            uint8_t high = 0;
            for (int sub = 0; sub < 8; sub++) high |= (uint8_t)((levels[32 * sub + i] >> 4) << sub);
            out[16 + i] = high;
        }
        for (int pair = 0; pair < 4; pair++)
            for (int i = 0; i < 32; i++)
                out[48 + 32 * pair + i] = (uint8_t)((levels[64 * pair + i] & 15) | (levels[64 * pair + 32 + i] & 15) << 4);
    }
}

static void batch_q2_k(const struct batch *b) {
    struct fits fits = {0};
    struct steps steps;
    uint8_t levels[SUPERBLOCK];
    fit_batch(b, (struct grid){16, 3, -0.5f, 0.1f, 15, 1}, MAGNITUDE, 1, 15, &fits, &steps);
    for (int block = 0; block < b->n_values / SUPERBLOCK; block++) {
        uint8_t *out = b->out + block * Q2_K_BYTES;
        const uint16_t d = half_of(steps.scale[block]), dmin = half_of(steps.least[block]);
        for (int i = 0; i < 16; i++) {
            const int at = 16 * block + i;
            out[i] = (uint8_t)(steps.scale_level[at] | steps.least_level[at] << 4);
            const float scale = float_of_half(d) * (float)(out[i] & 15), least = float_of_half(dmin) * (float)(out[i] >> 4);
            affine_levels(b, &fits, at, 16, 3, scale, least, levels + 16 * i);
        }
        pack_two_bits(levels, out + 16);
        put_half(out + 80, d);
        put_half(out + 82, dmin);
    }
}

#endif
