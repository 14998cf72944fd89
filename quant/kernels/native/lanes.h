/* LANES floats side by side, and the few operations the kernels need on them.
 *
 * Compiled once for each CPU level: LANES is 16 (AVX-512), 8 (AVX2) or 4 (any x86-64). `vf` holds floats, `vi` 32-bit
 * integers, `vm` one truth value a lane. Arithmetic uses the compilers' operators on vector types, so no operation is
 * ever fused or reordered (-ffp-contract=off) and each lane rounds as scalar C does. */
#ifndef LANES_H
#define LANES_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define FORCE_INLINE static inline __attribute__((always_inline))

#if LANES == 16
typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;
FORCE_INLINE vf splat(float v) { return _mm512_set1_ps(v); }
FORCE_INLINE vf load(const float *p) { return _mm512_loadu_ps(p); }
FORCE_INLINE void store(float *p, vf v) { _mm512_storeu_ps(p, v); }
FORCE_INLINE vf lower(vf a, vf b) { return _mm512_min_ps(a, b); }
FORCE_INLINE vf higher(vf a, vf b) { return _mm512_max_ps(a, b); }
FORCE_INLINE vf root(vf v) { return _mm512_sqrt_ps(v); }
FORCE_INLINE vf magnitude(vf v) { return _mm512_abs_ps(v); }
FORCE_INLINE vm less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
FORCE_INLINE vm equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
FORCE_INLINE vm both(vm a, vm b) { return a & b; }
FORCE_INLINE vm except(vm a, vm b) { return a & (vm)~b; }
FORCE_INLINE int any(vm m) { return m != 0; }
FORCE_INLINE int all(vm m) { return m == 0xffff; }
FORCE_INLINE vf choose(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
FORCE_INLINE vf round_even(vf v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FORCE_INLINE vi bits_of(vf v) { return _mm512_castps_si512(v); }
FORCE_INLINE vi splat_int(int v) { return _mm512_set1_epi32(v); }
FORCE_INLINE vi mask_bits(vi a, vi b) { return _mm512_and_si512(a, b); }
FORCE_INLINE vi minus_int(vi a, vi b) { return _mm512_sub_epi32(a, b); }
FORCE_INLINE vf float_of(vi v) { return _mm512_cvtepi32_ps(v); }
FORCE_INLINE vi int_of(vf v) { return _mm512_cvttps_epi32(v); }
FORCE_INLINE void store_int(int32_t *p, vi v) { _mm512_storeu_si512(p, v); }
FORCE_INLINE vf interleave_low(vf a, vf b) {
    const vi order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a, order, b);
}
FORCE_INLINE vf interleave_high(vf a, vf b) {
    const vi order = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_permutex2var_ps(a, order, b);
}

#elif LANES == 8
typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;
FORCE_INLINE vf splat(float v) { return _mm256_set1_ps(v); }
FORCE_INLINE vf load(const float *p) { return _mm256_loadu_ps(p); }
FORCE_INLINE void store(float *p, vf v) { _mm256_storeu_ps(p, v); }
FORCE_INLINE vf lower(vf a, vf b) { return _mm256_min_ps(a, b); }
FORCE_INLINE vf higher(vf a, vf b) { return _mm256_max_ps(a, b); }
FORCE_INLINE vf root(vf v) { return _mm256_sqrt_ps(v); }
FORCE_INLINE vf magnitude(vf v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
FORCE_INLINE vm less(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
FORCE_INLINE vm equal(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
FORCE_INLINE vm both(vm a, vm b) { return _mm256_and_ps(a, b); }
FORCE_INLINE vm except(vm a, vm b) { return _mm256_andnot_ps(b, a); }
FORCE_INLINE int any(vm m) { return _mm256_movemask_ps(m) != 0; }
FORCE_INLINE int all(vm m) { return _mm256_movemask_ps(m) == 0xff; }
FORCE_INLINE vf choose(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
FORCE_INLINE vf round_even(vf v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FORCE_INLINE vi bits_of(vf v) { return _mm256_castps_si256(v); }
FORCE_INLINE vi splat_int(int v) { return _mm256_set1_epi32(v); }
FORCE_INLINE vi mask_bits(vi a, vi b) { return _mm256_and_si256(a, b); }
FORCE_INLINE vi minus_int(vi a, vi b) { return _mm256_sub_epi32(a, b); }
FORCE_INLINE vf float_of(vi v) { return _mm256_cvtepi32_ps(v); }
FORCE_INLINE vi int_of(vf v) { return _mm256_cvttps_epi32(v); }
FORCE_INLINE void store_int(int32_t *p, vi v) { _mm256_storeu_si256((__m256i *)p, v); }
FORCE_INLINE vf interleave_low(vf a, vf b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}
FORCE_INLINE vf interleave_high(vf a, vf b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}

#elif LANES == 4
typedef __m128 vf;
typedef __m128i vi;
typedef __m128 vm;
FORCE_INLINE vf splat(float v) { return _mm_set1_ps(v); }
FORCE_INLINE vf load(const float *p) { return _mm_loadu_ps(p); }
FORCE_INLINE void store(float *p, vf v) { _mm_storeu_ps(p, v); }
FORCE_INLINE vf lower(vf a, vf b) { return _mm_min_ps(a, b); }
FORCE_INLINE vf higher(vf a, vf b) { return _mm_max_ps(a, b); }
FORCE_INLINE vf root(vf v) { return _mm_sqrt_ps(v); }
FORCE_INLINE vf magnitude(vf v) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), v); }
FORCE_INLINE vm less(vf a, vf b) { return _mm_cmplt_ps(a, b); }
FORCE_INLINE vm equal(vf a, vf b) { return _mm_cmpeq_ps(a, b); }
FORCE_INLINE vm both(vm a, vm b) { return _mm_and_ps(a, b); }
FORCE_INLINE vm except(vm a, vm b) { return _mm_andnot_ps(b, a); }
FORCE_INLINE int any(vm m) { return _mm_movemask_ps(m) != 0; }
FORCE_INLINE int all(vm m) { return _mm_movemask_ps(m) == 0xf; }
FORCE_INLINE vf choose(vm m, vf yes, vf no) { return _mm_or_ps(_mm_and_ps(m, yes), _mm_andnot_ps(m, no)); }
FORCE_INLINE vf round_even(vf v) { return (v + splat(12582912.f)) - splat(12582912.f); }
FORCE_INLINE vi bits_of(vf v) { return _mm_castps_si128(v); }
FORCE_INLINE vi splat_int(int v) { return _mm_set1_epi32(v); }
FORCE_INLINE vi mask_bits(vi a, vi b) { return _mm_and_si128(a, b); }
FORCE_INLINE vi minus_int(vi a, vi b) { return _mm_sub_epi32(a, b); }
FORCE_INLINE vf float_of(vi v) { return _mm_cvtepi32_ps(v); }
FORCE_INLINE vi int_of(vf v) { return _mm_cvttps_epi32(v); }
FORCE_INLINE void store_int(int32_t *p, vi v) { _mm_storeu_si128((__m128i *)p, v); }
FORCE_INLINE vf interleave_low(vf a, vf b) { return _mm_unpacklo_ps(a, b); }
FORCE_INLINE vf interleave_high(vf a, vf b) { return _mm_unpackhi_ps(a, b); }
#else
#error "LANES must be 4, 8 or 16"
#endif

/* ggml rounds with a magic number and keeps 23 bits, which also defines the result for values far out of range. */
FORCE_INLINE vf round_any(vf v) {
    vi bits = bits_of(v + splat(12582912.f));
    return float_of(minus_int(mask_bits(bits, splat_int(0x007fffff)), splat_int(0x00400000)));
}

/* `small`: the caller knows |v| < 2^22, where the short way gives the same number. */
FORCE_INLINE vf round_lanes(vf v, int small) { return small ? round_even(v) : round_any(v); }

FORCE_INLINE vf clamp(vf v, float low, float high) { return higher(lower(v, splat(high)), splat(low)); }

FORCE_INLINE int round_scalar(float v) {
    float shifted = v + 12582912.f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return (bits & 0x007fffff) - 0x00400000;
}

/* Perfect shuffles: after log2(LANES) of them, rows have become columns. */
FORCE_INLINE void transpose(vf rows[LANES]) {
    for (int width = 1; width < LANES; width *= 2) {
        vf mixed[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            mixed[2 * i] = interleave_low(rows[i], rows[i + LANES / 2]);
            mixed[2 * i + 1] = interleave_high(rows[i], rows[i + LANES / 2]);
        }
        for (int i = 0; i < LANES; i++) rows[i] = mixed[i];
    }
}

/* out[i] holds element i of each of LANES runs of `length` floats. */
FORCE_INLINE void load_runs(const float *const runs[LANES], int length, vf *out) {
    for (int i = 0; i < length; i += LANES) {
        vf rows[LANES];
        for (int lane = 0; lane < LANES; lane++) rows[lane] = load(runs[lane] + i);
        transpose(rows);
        for (int lane = 0; lane < LANES; lane++) out[i + lane] = rows[lane];
    }
}

#endif
