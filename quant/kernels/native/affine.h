/* Types whose values are scale * level - min: Q2_K, Q4_K, Q5_K.
 *
 * A lane is one sub-block. The search tries several level grids and solves a weighted least-squares fit for each. */
#ifndef AFFINE_H
#define AFFINE_H

#include "batch.h"

struct grid {
    int length;         /* values in a sub-block */
    int top;            /* highest level */
    float first, delta; /* offsets tried: first, first + delta ... */
    int tries;
    int absolute;       /* the error is |difference| instead of its square */
};

/* Per sub-block of a batch. (factor, origin) give the levels of the best grid: round(factor * (x - origin)). */
struct fits {
    float scale[MAX_SUB], least[MAX_SUB], weight[MAX_SUB], factor[MAX_SUB], origin[MAX_SUB];
};

FORCE_INLINE vf grid_error(vf level, vf scale, vf low, vf x, vf w, int absolute) {
    vf difference = scale * level + low - x;
    if (absolute) return w * magnitude(difference);
    return w * (difference * difference);
}

/* One grid: levels, and the sums of the least-squares system. */
FORCE_INLINE void grid_sums(
    const vf *x, const vf *w, const struct grid g, vf factor, vf low, int small, vf *levels, vf *sum_l, vf *sum_l2, vf *sum_xl
) {
    vf l1 = splat(0), l2 = splat(0), xl = splat(0);
    for (int i = 0; i < g.length; i++) {
        vf level = clamp(round_lanes(factor * (x[i] - low), small), 0, (float)g.top);
        vf weighted = w[i] * level;
        levels[i] = level;
        l1 = l1 + weighted;
        l2 = l2 + weighted * level;
        xl = xl + weighted * x[i];
    }
    *sum_l = l1;
    *sum_l2 = l2;
    *sum_xl = xl;
}

FORCE_INLINE void affine_search(const vf *x, const vf *w, const struct grid g, struct fits *fits, int at) {
    vf levels[32];
    vf low = x[0], high = x[0], sum_w = w[0], sum_x = sum_w * x[0];
    for (int i = 1; i < g.length; i++) {
        low = lower(x[i], low);
        high = higher(x[i], high);
        sum_w = sum_w + w[i];
        sum_x = sum_x + w[i] * x[i];
    }
    low = choose(less(splat(0), low), splat(0), low);
    const vf least = low;
    const vm flat = equal(high, low);

    vf factor = choose(flat, splat(0), splat((float)g.top) / (high - low));
    vf scale = splat(1) / factor, best = splat(0);
    vf best_factor = factor, best_origin = low;
    for (int i = 0; i < g.length; i++) {
        vf level = clamp(round_any(factor * (x[i] - low)), 0, (float)g.top);
        best = best + grid_error(level, scale, low, x[i], w[i], g.absolute);
    }
    for (int try = 0; try <= g.tries; try++) {
        vf sum_l, sum_l2, sum_xl;
        factor = choose(flat, splat(0), splat(g.first + g.delta * (float)try + (float)g.top) / (high - low));
        vf reach = magnitude(factor) * higher(magnitude(high - low), magnitude(least - low));
        if (__builtin_expect(all(less(reach, splat(4e6f))), 1))
            grid_sums(x, w, g, factor, low, 1, levels, &sum_l, &sum_l2, &sum_xl);
        else
            grid_sums(x, w, g, factor, low, 0, levels, &sum_l, &sum_l2, &sum_xl);

        vf determinant = sum_w * sum_l2 - sum_l * sum_l;
        vm solvable = except(less(splat(0), determinant), flat);
        vf new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        vf new_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        vm positive = less(splat(0), new_low);
        new_low = choose(positive, splat(0), new_low);
        new_scale = choose(positive, sum_xl / sum_l2, new_scale);
        vf error = splat(0);
        for (int i = 0; i < g.length; i++)
            error = error + grid_error(levels[i], new_scale, new_low, x[i], w[i], g.absolute);

        vm better = both(solvable, less(error, best));
        best_factor = choose(better, factor, best_factor);
        best_origin = choose(better, low, best_origin);
        best = choose(better, error, best);
        scale = choose(better, new_scale, scale);
        low = choose(better, new_low, low);
    }
    store(fits->scale + at, choose(flat, splat(0), scale));
    store(fits->least + at, splat(0) - low);
    store(fits->weight + at, sum_w);
    store(fits->factor + at, best_factor);
    store(fits->origin + at, best_origin);
}

/* Lanes are superblocks: whole-number multiples `levels` (0..top) of one step a lane, for n positive values with
 * weights. Returns the steps. Levels are kept in a byte, as ggml does, so a negative one wraps around. */
static vf positive_steps(const vf *x, const vf *w, int n, int top, vf *levels) {
    vf high = splat(0);
    for (int i = 0; i < n; i++) high = higher(high, x[i]);
    const vm zero = less(high, splat(TINY));
    const vf limit = splat((float)top);
    vf factor = limit / high, scale = splat(1) / factor, best = splat(0);
    for (int i = 0; i < n; i++) {
        vf level = float_of(mask_bits(int_of(round_any(factor * x[i])), splat_int(255)));
        vf difference = x[i] - scale * level;
        best = best + w[i] * difference * difference;
    }
    for (int try = -4; try <= 4; try++) {
        if (try == 0) continue;
        vf new_factor = splat(0.1f * (float)try + (float)top) / high, error = splat(0);
        vf new_scale = splat(1) / new_factor;
        for (int i = 0; i < n; i++) {
            vf difference = x[i] - new_scale * lower(round_any(new_factor * x[i]), limit);
            error = error + w[i] * difference * difference;
        }
        vm better = less(error, best);
        best = choose(better, error, best);
        factor = choose(better, new_factor, factor);
    }
    vf sum_xl = splat(0), sum_l2 = splat(0);
    for (int i = 0; i < n; i++) {
        vf level = lower(round_any(factor * x[i]), limit);
        levels[i] = float_of(mask_bits(int_of(level), splat_int(255)));
        sum_xl = sum_xl + w[i] * x[i] * level;
        sum_l2 = sum_l2 + w[i] * level * level;
    }
    for (int round = 0; round < 5; round++) {
        int changed = 0;
        for (int i = 0; i < n; i++) {
            vf rest_xl = sum_xl - w[i] * x[i] * levels[i];
            vf rest_l2 = sum_l2 - w[i] * levels[i] * levels[i];
            vm open = both(less(splat(0), rest_xl), less(splat(0), rest_l2));
            vf level = lower(round_any(x[i] * rest_l2 / rest_xl), limit);
            open = except(open, equal(level, levels[i]));
            rest_xl = rest_xl + w[i] * x[i] * level;
            rest_l2 = rest_l2 + w[i] * level * level;
            vm better = both(open, less(sum_xl * sum_xl * rest_l2, rest_xl * rest_xl * sum_l2));
            vf stored = float_of(mask_bits(int_of(level), splat_int(255)));
            levels[i] = choose(better, stored, levels[i]);
            sum_xl = choose(better, rest_xl, sum_xl);
            sum_l2 = choose(better, rest_l2, sum_l2);
            changed |= any(better);
        }
        if (!changed) break;
    }
    for (int i = 0; i < n; i++) levels[i] = choose(zero, splat(0), levels[i]);
    vm usable = except(less(splat(0), sum_l2), zero);
    return choose(usable, sum_xl / sum_l2, splat(0));
}

/* Superblock scale and levels of its sub-blocks' scales (or mins), with an importance matrix. */
static void importance_steps(
    const float *values, const float *weights, int n_sub, int n_blocks, int top, float *steps, uint8_t *levels
) {
    for (int block = 0; block < n_blocks; block += LANES) {
        vf x[16], w[16], l[16];
        for (int i = 0; i < n_sub; i++) {
            float column_x[LANES], column_w[LANES];
            for (int lane = 0; lane < LANES; lane++) {
                column_x[lane] = values[(block + lane) * n_sub + i];
                column_w[lane] = weights[(block + lane) * n_sub + i];
            }
            x[i] = load(column_x);
            w[i] = load(column_w);
        }
        store(steps + block, positive_steps(x, w, n_sub, top, l));
        for (int i = 0; i < n_sub; i++) {
            int32_t column[LANES];
            store_int(column, int_of(l[i]));
            for (int lane = 0; lane < LANES; lane++) levels[(block + lane) * n_sub + i] = (uint8_t)column[lane];
        }
    }
}

/* The same without one: everything relative to the largest. */
FORCE_INLINE float largest(const float *values, int n) {
    float high = 0;
    for (int i = 0; i < n; i++) high = values[i] > high ? values[i] : high;
    return high;
}

static __attribute__((noinline)) void plain_steps(const float *values, int n_sub, int n_blocks, int top, float *steps, uint8_t *levels) {
    for (int block = 0; block < n_blocks; block++) {
        const float *v = values + block * n_sub;
        float high = largest(v, n_sub);
        float factor = high > 0 ? (float)top / high : 0.f;
        steps[block] = high > 0 ? high / (float)top : 0.f;
        for (int i = 0; i < n_sub; i++) levels[block * n_sub + i] = (uint8_t)round_scalar(factor * v[i]);
    }
}

#endif
