/* Which of the compiled levels this CPU can run. The build defines HAVE_AVX2 and HAVE_AVX512 for those it compiled. */
#include "kernels.h"

#include <stddef.h>

#define EXPORT __attribute__((visibility("default")))

static int runs_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}

static int runs_avx512(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

static quantize_fn *entry_of(int level) {
    if (level == 0) return quantize_plain;
#ifdef HAVE_AVX2
    if (level == 1 && runs_avx2()) return quantize_avx2;
#endif
#ifdef HAVE_AVX512
    if (level == 2 && runs_avx512()) return quantize_avx512;
#endif
    return NULL;
}

/* Levels: 0 plain x86-64, 1 AVX2, 2 AVX-512. */
EXPORT int interns1_kernels_has_level(int level) { return entry_of(level) != NULL; }

EXPORT int64_t interns1_kernels_quantize(
    int level, int type, const float *rows, int64_t n_rows, int64_t width, const float *imatrix, uint8_t *out
) {
    quantize_fn *entry = entry_of(level);
    return entry ? entry(type, rows, n_rows, width, imatrix, out) : -1;
}
