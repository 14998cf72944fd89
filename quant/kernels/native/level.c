/* One CPU level's kernels: compiled several times, with LANES and the name of its entry given by the build. */
#include "affine_types.h"
#include "nonlinear.h"
#include "symmetric.h"

#include "kernels.h"

struct kernel {
    int type, values, bytes; /* ggml's type number, values in a block and their encoded size */
    void (*encode)(const struct batch *);
};

static const struct kernel KERNELS[] = {
    {10, SUPERBLOCK, Q2_K_BYTES, batch_q2_k},   {11, SUPERBLOCK, Q3_K_BYTES, batch_q3_k},
    {12, SUPERBLOCK, Q4_K_BYTES, batch_q4_k},   {13, SUPERBLOCK, Q5_K_BYTES, batch_q5_k},
    {14, SUPERBLOCK, Q6_K_BYTES, batch_q6_k},   {20, IQ4_LENGTH, IQ4_NL_BYTES, batch_iq4_nl},
    {23, SUPERBLOCK, IQ4_XS_BYTES, batch_iq4_xs},
};

int64_t ENTRY(int type, const float *rows, int64_t n_rows, int64_t width, const float *imatrix, uint8_t *out) {
    for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++) {
        const struct kernel *kernel = &KERNELS[i];
        if (kernel->type != type) continue;
        if (n_rows < 0 || width <= 0 || width % kernel->values) return -1;
        const int64_t total = n_rows * width;
        for (int64_t first = 0; first < total; first += BATCH_VALUES) {
            float tail[BATCH_VALUES];
            const int64_t left = total - first;
            struct batch batch = {rows + first, BATCH_VALUES, first, width, imatrix, out + first / kernel->values * kernel->bytes};
            if (left < BATCH_VALUES) { /* lanes without a sub-block of their own work on zeros */
                memset(tail, 0, sizeof tail);
                memcpy(tail, rows + first, (size_t)left * sizeof *tail);
                batch.x = tail;
                batch.n_values = (int)left;
            }
            kernel->encode(&batch);
        }
        return total / kernel->values * kernel->bytes;
    }
    return -1;
}
