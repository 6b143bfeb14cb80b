// Products of fp8 numbers: what comes before and after them. For Ada (sm_89), Hopper and later.
//
// Compiled at run time behind halves.cuh, with its macros and these:
//   THREADS  of a block, whole warps
//   KERNEL   0: scales of a product; the others make rows in e4m3, each divided by its scale, which makes
//            its largest number LARGEST: 1 of rows as they are, 2 of heads side by side, 3 of silu(a) * b,
//            4 of normalised rows
// and for those that make rows:
//   WIDTH    numbers of a row, a multiple of 16
//   VECTORS  of eight numbers that a thread keeps in registers
//   FLOATS   1: the numbers are written as they are, too
//   SEGMENT  numbers of a head (of 2), a multiple of 8 that divides WIDTH
//   ROWS     of a block (of 4)
//   BLOCKS   on a multiprocessor at least (of 4)

// The largest number of e4m3.
[[maybe_unused]] constexpr float LARGEST = 448.0f;

#if KERNEL

constexpr int COUNT = WIDTH / 8;
constexpr int WARPS = THREADS / 32;

struct alignas(16) Vector {
    float x[8];
};

INLINE Vector unpacked(uint4 v) {
    return {low_half(v.x), high_half(v.x), low_half(v.y), high_half(v.y),
            low_half(v.z), high_half(v.z), low_half(v.w), high_half(v.w)};
}

INLINE uint4 packed(const Vector &v) {
    return make_uint4(pack(v.x[0], v.x[1]), pack(v.x[2], v.x[3]), pack(v.x[4], v.x[5]),
                      pack(v.x[6], v.x[7]));
}

// Two numbers in e4m3, each rounded to the nearest, beyond the largest that.
INLINE uint pair_in_e4m3(float low, float high) {
    unsigned short pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
}

INLINE uint2 quantized(const Vector &v, float inverse) {
    uint pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        pairs[i] = pair_in_e4m3(v.x[2 * i] * inverse, v.x[2 * i + 1] * inverse);
    }
    return make_uint2(pairs[1] << 16 | pairs[0], pairs[3] << 16 | pairs[2]);
}

INLINE float larger(float most, const Vector &v) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        most = fmaxf(most, fabsf(v.x[i]));
    }
    return most;
}

// Over the whole block; of_warps is used again after two other barriers only.
INLINE float block_max(float x, float *of_warps) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, apart));
    }
    if (WARPS > 1) {
        if (threadIdx.x % 32 == 0) {
            of_warps[threadIdx.x / 32] = x;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            x = fmaxf(x, of_warps[i]);
        }
    }
    return x;
}

INLINE float block_sum(float x, float *of_warps) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        x += __shfl_xor_sync(0xffffffff, x, apart);
    }
    if (WARPS > 1) {
        if (threadIdx.x % 32 == 0) {
            of_warps[threadIdx.x / 32] = x;
        }
        __syncthreads();
        x = 0.0f;
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            x += of_warps[i];
        }
    }
    return x;
}

// The scale of a row whose largest number this is.
INLINE float scale_of(float most) {
    // Of zeros any scale will do whose inverse is a number.
    return fmaxf(most / LARGEST, 1e-30f);
}

#if KERNEL == 4

// Rows [rows, WIDTH] normalised to mean 0 and variance 1, then times the weights of their group and the biases
// added, both [groups, WIDTH]; a group is rows_per_group rows. A block makes ROWS of them, with the tables in
// registers. The numbers themselves go to floats, if FLOATS.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    quantize_norm(const uint4 *x, const float4 *weights, const float4 *biases, uint2 *out,
                  float *scales, uint4 *floats, float epsilon, int rows, int rows_per_group) {
    __shared__ float shared[3][WARPS];
    constexpr float SHARE = 1.0f / WIDTH;
    Vector weight[VECTORS], bias[VECTORS];
    uint4 next[VECTORS];
    const int first = blockIdx.x * ROWS;
    const int end = min(first + ROWS, rows);
    int group = -1;
    const auto load = [&](int row) {
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            const int at = threadIdx.x + i * THREADS;
            next[i] = make_uint4(0, 0, 0, 0);
            if (at < COUNT) {
                next[i] = x[(long long)row * COUNT + at];
            }
        }
    };
    load(first);
    for (int row = first; row < end; row++) {
        Vector values[VECTORS];
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            values[i] = unpacked(next[i]);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                sum += values[i].x[j];
            }
        }
        if (row + 1 < end) {
            load(row + 1);
        }
        if (row / rows_per_group != group) {
            group = row / rows_per_group;
#pragma unroll
            for (int i = 0; i < VECTORS; i++) {
                const int at = threadIdx.x + i * THREADS;
                if (at < COUNT) {
                    const long long from = 2 * ((long long)group * COUNT + at);
                    *(float4 *)&weight[i].x[0] = weights[from];
                    *(float4 *)&weight[i].x[4] = weights[from + 1];
                    *(float4 *)&bias[i].x[0] = biases[from];
                    *(float4 *)&bias[i].x[4] = biases[from + 1];
                }
            }
        }
        const float mean = block_sum(sum, shared[0]) * SHARE;
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            const bool real = threadIdx.x + i * THREADS < COUNT;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                values[i].x[j] -= mean;
                squares += real ? values[i].x[j] * values[i].x[j] : 0.0f;
            }
        }
        const float variance = block_sum(squares, shared[1]) * SHARE;
        const float deviation = 1.0f / sqrtf(variance + epsilon);
        float most = 0.0f;
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            if (threadIdx.x + i * THREADS < COUNT) {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    values[i].x[j] = values[i].x[j] * deviation * weight[i].x[j] + bias[i].x[j];
                }
                most = larger(most, values[i]);
            }
        }
        const float scale = scale_of(block_max(most, shared[2]));
        const float inverse = 1.0f / scale;
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            const int at = threadIdx.x + i * THREADS;
            if (at < COUNT) {
                out[(long long)row * COUNT + at] = quantized(values[i], inverse);
#if FLOATS
                floats[(long long)row * COUNT + at] = packed(values[i]);
#endif
            }
        }
        if (threadIdx.x == 0) {
            scales[row] = scale;
        }
    }
}

#else

#if KERNEL == 1

// Rows [gridDim.x, WIDTH].
struct Source {
    const uint4 *x;
};

INLINE uint4 read(const Source &from, int row, int at) {
    return from.x[(long long)row * COUNT + at];
}

#elif KERNEL == 2

// Heads [B, H, tokens, SEGMENT], side by side in rows [B * tokens, WIDTH]. Strides are in numbers, multiples
// of 8, of the first three dimensions.
struct Source {
    const uint4 *x;
    long long strides[3];
    int tokens;
};

INLINE uint4 read(const Source &from, int row, int at) {
    constexpr int COUNT_OF_HEAD = SEGMENT / 8;
    const long long start = row / from.tokens * from.strides[0] +
                            at / COUNT_OF_HEAD * from.strides[1] +
                            row % from.tokens * from.strides[2];
    return from.x[start / 8 + at % COUNT_OF_HEAD];
}

#elif KERNEL == 3

// Gates and values [gridDim.x, WIDTH].
struct Source {
    const uint4 *a;
    const uint4 *b;
};

INLINE uint4 read(const Source &from, int row, int at) {
    const Vector a = unpacked(from.a[(long long)row * COUNT + at]);
    const Vector b = unpacked(from.b[(long long)row * COUNT + at]);
    Vector y;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        y.x[i] = __fdividef(a.x[i], 1.0f + __expf(-a.x[i])) * b.x[i];
    }
    return packed(y);
}

#endif

// The numbers themselves go to floats, if FLOATS.
extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_rows(const __grid_constant__ Source from, uint2 *out, float *scales, uint4 *floats) {
    __shared__ float shared[WARPS];
    uint4 values[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = threadIdx.x + i * THREADS;
        values[i] = make_uint4(0, 0, 0, 0);
        if (at < COUNT) {
            values[i] = read(from, blockIdx.x, at);
        }
    }
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        most = larger(most, unpacked(values[i]));
    }
    const float scale = scale_of(block_max(most, shared));
    const float inverse = 1.0f / scale;
    uint2 *to = out + (long long)blockIdx.x * COUNT;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = threadIdx.x + i * THREADS;
        if (at < COUNT) {
            to[at] = quantized(unpacked(values[i]), inverse);
#if FLOATS
            floats[(long long)blockIdx.x * COUNT + at] = values[i];
#endif
        }
    }
    if (threadIdx.x == 0) {
        scales[blockIdx.x] = scale;
    }
}

#endif

#else

// y [gridDim.x, width] times the scales of its rows and columns, and the bias added, where there is one.
extern "C" __global__ void __launch_bounds__(THREADS)
    scale_product(uint4 *y, const float *rows, const float *columns, const uint4 *bias, int width) {
    const float row = rows[blockIdx.x];
    const int count = width / 8;
    uint4 *line = y + (long long)blockIdx.x * count;
    const float4 *factors = (const float4 *)columns;
    for (int at = threadIdx.x; at < count; at += THREADS) {
        const uint4 v = line[at];
        const float4 a = factors[2 * at], b = factors[2 * at + 1];
        const uint4 c = bias == nullptr ? make_uint4(0, 0, 0, 0) : bias[at];
        line[at] = make_uint4(
            pack(fmaf(low_half(v.x), row * a.x, low_half(c.x)),
                    fmaf(high_half(v.x), row * a.y, high_half(c.x))),
            pack(fmaf(low_half(v.y), row * a.z, low_half(c.y)),
                    fmaf(high_half(v.y), row * a.w, high_half(c.y))),
            pack(fmaf(low_half(v.z), row * b.x, low_half(c.z)),
                    fmaf(high_half(v.z), row * b.y, high_half(c.z))),
            pack(fmaf(low_half(v.w), row * b.z, low_half(c.w)),
                    fmaf(high_half(v.w), row * b.w, high_half(c.w))));
    }
}

#endif
