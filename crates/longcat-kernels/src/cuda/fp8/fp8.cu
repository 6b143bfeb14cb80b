// Products of fp8 numbers: what comes before and after them. For Ada (sm_89), Hopper and later.
//
// Compiled at run time with these macros:
//   HALF     0: bf16, 1: f16
//   WIDTH    numbers of a row, a multiple of 16 (of quantize_rows)
//   THREADS  of a block, whole warps
//   VECTORS  of eight numbers that a thread of quantize_rows keeps in registers

using uint = unsigned int;

#define INLINE __device__ __forceinline__

// The largest number of e4m3.
constexpr float LARGEST = 448.0f;

INLINE float low_half(uint pair) {
#if HALF
    float x;
    asm("{\n .reg .b16 low, high;\n mov.b32 {low, high}, %1;\n cvt.f32.f16 %0, low;\n}"
        : "=f"(x)
        : "r"(pair));
    return x;
#else
    return __uint_as_float(pair << 16);
#endif
}

INLINE float high_half(uint pair) {
#if HALF
    return low_half(pair >> 16);
#else
    return __uint_as_float(pair & 0xffff0000);
#endif
}

// Two numbers of the type, each rounded to the nearest.
INLINE uint pair_of(float low, float high) {
    uint pair;
#if HALF
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
    return pair;
}

// Four numbers in e4m3, each rounded to the nearest, beyond the largest that.
INLINE uint quantized(uint low, uint high, float inverse) {
    ushort1 a, b;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;"
        : "=h"(a.x)
        : "f"(high_half(low) * inverse), "f"(low_half(low) * inverse));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;"
        : "=h"(b.x)
        : "f"(high_half(high) * inverse), "f"(low_half(high) * inverse));
    return (uint)b.x << 16 | a.x;
}

INLINE float larger(float most, uint pair) {
    return fmaxf(fmaxf(most, fabsf(low_half(pair))), fabsf(high_half(pair)));
}

#ifdef WIDTH

// Rows [gridDim.x, WIDTH] to e4m3, each divided by its scale, which makes its largest number LARGEST.
extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_rows(const uint4 *x, uint2 *out, float *scales) {
    constexpr int COUNT = WIDTH / 8;
    constexpr int WARPS = THREADS / 32;
    const uint4 *from = x + (long long)blockIdx.x * COUNT;
    uint4 values[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = threadIdx.x + i * THREADS;
        values[i] = make_uint4(0, 0, 0, 0);
        if (at < COUNT) {
            values[i] = from[at];
        }
    }
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        most = larger(larger(most, values[i].x), values[i].y);
        most = larger(larger(most, values[i].z), values[i].w);
    }
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, apart));
    }
    if (WARPS > 1) {
        __shared__ float of_warps[WARPS];
        if (threadIdx.x % 32 == 0) {
            of_warps[threadIdx.x / 32] = most;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            most = fmaxf(most, of_warps[i]);
        }
    }
    // Of zeros any scale will do whose inverse is a number.
    const float scale = fmaxf(most / LARGEST, 1e-30f);
    const float inverse = 1.0f / scale;
    uint2 *to = out + (long long)blockIdx.x * COUNT;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = threadIdx.x + i * THREADS;
        if (at < COUNT) {
            const uint4 v = values[i];
            to[at] = make_uint2(quantized(v.x, v.y, inverse), quantized(v.z, v.w, inverse));
        }
    }
    if (threadIdx.x == 0) {
        scales[blockIdx.x] = scale;
    }
}

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
            pair_of(fmaf(low_half(v.x), row * a.x, low_half(c.x)),
                    fmaf(high_half(v.x), row * a.y, high_half(c.x))),
            pair_of(fmaf(low_half(v.y), row * a.z, low_half(c.y)),
                    fmaf(high_half(v.y), row * a.w, high_half(c.y))),
            pair_of(fmaf(low_half(v.z), row * b.x, low_half(c.z)),
                    fmaf(high_half(v.z), row * b.y, high_half(c.z))),
            pair_of(fmaf(low_half(v.w), row * b.z, low_half(c.w)),
                    fmaf(high_half(v.w), row * b.w, high_half(c.w))));
    }
}

#endif
