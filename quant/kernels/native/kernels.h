/* The entry of each CPU level. Returns the number of bytes written, or -1 for a type or width without a kernel. */
#ifndef KERNELS_H
#define KERNELS_H

#include <stdint.h>

typedef int64_t quantize_fn(int type, const float *rows, int64_t n_rows, int64_t width, const float *imatrix, uint8_t *out);

quantize_fn quantize_plain, quantize_avx2, quantize_avx512;

#endif
