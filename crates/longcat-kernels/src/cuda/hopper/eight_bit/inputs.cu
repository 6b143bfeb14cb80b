// What attention in eight bits reads: queries and keys in int8, values in e4m3, as images of tiles in
// shared memory, so that plain bulk copies fetch them. Three kernels, by the macro KERNEL:
//   1 input_sums    sums of keys and sums and ranges of values, for runs of CHUNK tokens
//   2 input_tables  of these, for each head and channel: means of keys and values, scales of values
//   3 input_tiles   the tiles, one of 32 tokens a block of threads
//
// Compiled at run time behind halves.cuh and common.cuh. A tile has UNIT tokens of one head; those past the end are
// zeros.
//
// Queries and keys: softmax does not change when all keys are moved by the same vector, and products
// do not when queries and keys are rotated together. The mean of keys is taken off, then a Hadamard
// transform spreads what single channels stand out with. A query has a scale, as has a tile of keys.
//
// Values: their mean is taken off, each channel has a scale. A tile is written transposed, since the
// matrix units take 8-bit operands along the summed dimension only, with its tokens in the order in
// which the products of scores leave them in registers.

constexpr int UNIT = 32;
constexpr int UNIT_BYTES = UNIT * HEAD_DIM;
constexpr int CHUNK = 512;

// Lanes that share a row, eight numbers each.
constexpr int LANES = HEAD_DIM / 8;
constexpr int THREADS = KERNEL == 3 ? 128 : 256;
constexpr int ROWS_AT_ONCE = THREADS / LANES;
constexpr int PASSES = UNIT / ROWS_AT_ONCE;

constexpr float INT8_LARGEST = 127.0f;
constexpr float E4M3_LARGEST = 448.0f;
// Of zeros any scale will do whose products are normal numbers.
constexpr float LEAST = 1e-12f;

// Of what the second kernel writes for a head, 128 numbers each.
constexpr int KEY_MEAN = 0;
constexpr int VALUE_MEAN = 1;
constexpr int VALUE_SCALE = 2;
constexpr int TABLES = 3;
// Of what the first writes for a run of tokens.
constexpr int KEY_SUM = 0;
constexpr int VALUE_SUM = 1;
constexpr int VALUE_LEAST = 2;
constexpr int VALUE_MOST = 3;
constexpr int SUMS = 4;

struct Inputs {
    // [B, H, N, 128], last stride 1, the others multiples of 8.
    const uint4 *q;
    const uint4 *k;
    const uint4 *v;
    // Tiles, [B, H, units, UNIT_BYTES].
    uint2 *q_tiles;
    uint2 *k_tiles;
    uint4 *v_tiles;
    // [B, H, units * UNIT], with the scale of softmax, in powers of two.
    float *q_scales;
    // [B, H, units].
    float *k_scales;
    // [B, H, chunks, SUMS, 128] and [B, H, TABLES, 128].
    float *sums;
    float *tables;
    // In numbers, of the first three dimensions.
    long long q_strides[3];
    long long k_strides[3];
    long long v_strides[3];
    int queries;
    int keys;
    int q_units;
    int k_units;
    int chunks;
    float scale;
};

struct Eight {
    float x[8];
};

// Eight channels of a token, or zeros past the end.
INLINE Eight read(const uint4 *x, const long long *strides, int token, int tokens) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (token < tokens) {
        v = __ldg(x + (blockIdx.z * strides[0] + blockIdx.y * strides[1] + token * strides[2]) / 8 +
                  threadIdx.x % LANES);
    }
    return {low_half(v.x), high_half(v.x), low_half(v.y), high_half(v.y),
            low_half(v.z), high_half(v.z), low_half(v.w), high_half(v.w)};
}

// Over the lanes that share a row.
INLINE float row_max(float x) {
#pragma unroll
    for (int apart = 1; apart < LANES; apart *= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, apart));
    }
    return x;
}

INLINE float largest(const Eight &v) {
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        most = fmaxf(most, fabsf(v.x[i]));
    }
    return most;
}

// The Hadamard transform of a row, times the root of its length.
INLINE Eight rotated(Eight v) {
#pragma unroll
    for (int apart = 1; apart < 8; apart *= 2) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if ((i & apart) == 0) {
                const float a = v.x[i];
                const float b = v.x[i + apart];
                v.x[i] = a + b;
                v.x[i + apart] = a - b;
            }
        }
    }
#pragma unroll
    for (int apart = 1; apart < LANES; apart *= 2) {
        const float sign = threadIdx.x & apart ? -1.0f : 1.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v.x[i] = fmaf(v.x[i], sign, __shfl_xor_sync(0xffffffff, v.x[i], apart));
        }
    }
    return v;
}

INLINE uint four_in_int8(const float *x, float inverse) {
    uint word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        word |= (uint)(__float2int_rn(x[i] * inverse) & 0xff) << 8 * i;
    }
    return word;
}

// Two numbers in e4m3, `low` in the lower byte.
INLINE uint pair_in_e4m3(float low, float high) {
    unsigned short pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
    return pair;
}

// Where this lane's eight bytes of a row belong: chunks of 16 bytes are swizzled over 128.
INLINE int place_in_tile(int row) {
    const int lane = threadIdx.x % LANES;
    return row * LANES + ((lane / 2 ^ row % 8) * 2 + lane % 2);
}

#if KERNEL == 1

// Block x is the run of tokens, y the head, z the batch entry.
extern "C" __global__ void __launch_bounds__(THREADS) input_sums(const __grid_constant__ Inputs p) {
    Eight sums[SUMS];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        sums[KEY_SUM].x[i] = 0.0f;
        sums[VALUE_SUM].x[i] = 0.0f;
        sums[VALUE_LEAST].x[i] = 3e38f;
        sums[VALUE_MOST].x[i] = -3e38f;
    }
    const int row = threadIdx.x / LANES;
    const int first = blockIdx.x * CHUNK;
    const int end = min(first + CHUNK, p.keys);
#pragma unroll 4
    for (int token = first + row; token < end; token += ROWS_AT_ONCE) {
        const Eight k = read(p.k, p.k_strides, token, p.keys);
        const Eight v = read(p.v, p.v_strides, token, p.keys);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            sums[KEY_SUM].x[i] += k.x[i];
            sums[VALUE_SUM].x[i] += v.x[i];
            sums[VALUE_LEAST].x[i] = fminf(sums[VALUE_LEAST].x[i], v.x[i]);
            sums[VALUE_MOST].x[i] = fmaxf(sums[VALUE_MOST].x[i], v.x[i]);
        }
    }
    __shared__ float all[SUMS][ROWS_AT_ONCE][HEAD_DIM];
#pragma unroll
    for (int of = 0; of < SUMS; of++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            all[of][row][threadIdx.x % LANES * 8 + i] = sums[of].x[i];
        }
    }
    __syncthreads();
    float *to = p.sums + ((long long)(blockIdx.z * gridDim.y + blockIdx.y) * p.chunks + blockIdx.x) *
                             (SUMS * HEAD_DIM);
    for (int at = threadIdx.x; at < SUMS * HEAD_DIM; at += THREADS) {
        const int of = at / HEAD_DIM;
        float x = all[of][0][at % HEAD_DIM];
#pragma unroll
        for (int i = 1; i < ROWS_AT_ONCE; i++) {
            const float y = all[of][i][at % HEAD_DIM];
            x = of == VALUE_LEAST ? fminf(x, y) : of == VALUE_MOST ? fmaxf(x, y) : x + y;
        }
        to[at] = x;
    }
}

#elif KERNEL == 2

constexpr int PARTS = 8;

// Block x is the head, y the batch entry; a thread has a channel and a share of the runs.
extern "C" __global__ void __launch_bounds__(PARTS *HEAD_DIM)
    input_tables(const __grid_constant__ Inputs p) {
    __shared__ float all[PARTS][SUMS][HEAD_DIM];
    const int channel = threadIdx.x % HEAD_DIM;
    const int part = threadIdx.x / HEAD_DIM;
    const long long head = blockIdx.y * gridDim.x + blockIdx.x;
    const float *from = p.sums + head * p.chunks * (SUMS * HEAD_DIM) + channel;
    float key = 0.0f;
    float value = 0.0f;
    float least = 3e38f;
    float most = -3e38f;
#pragma unroll 4
    for (int chunk = part; chunk < p.chunks; chunk += PARTS) {
        const float *at = from + chunk * (SUMS * HEAD_DIM);
        key += at[KEY_SUM * HEAD_DIM];
        value += at[VALUE_SUM * HEAD_DIM];
        least = fminf(least, at[VALUE_LEAST * HEAD_DIM]);
        most = fmaxf(most, at[VALUE_MOST * HEAD_DIM]);
    }
    all[part][KEY_SUM][channel] = key;
    all[part][VALUE_SUM][channel] = value;
    all[part][VALUE_LEAST][channel] = least;
    all[part][VALUE_MOST][channel] = most;
    __syncthreads();
    if (part > 0) {
        return;
    }
#pragma unroll
    for (int i = 1; i < PARTS; i++) {
        key += all[i][KEY_SUM][channel];
        value += all[i][VALUE_SUM][channel];
        least = fminf(least, all[i][VALUE_LEAST][channel]);
        most = fmaxf(most, all[i][VALUE_MOST][channel]);
    }
    const float mean = value / p.keys;
    const float span = fmaxf(most - mean, mean - least);
    float *to = p.tables + head * (TABLES * HEAD_DIM) + channel;
    to[KEY_MEAN * HEAD_DIM] = key / p.keys;
    to[VALUE_MEAN * HEAD_DIM] = mean;
    to[VALUE_SCALE * HEAD_DIM] = fmaxf(span, LEAST) / E4M3_LARGEST;
}

#elif KERNEL == 3

INLINE Eight table_of(const Inputs &p, int of) {
    const float *at = p.tables +
                      (long long)(blockIdx.z * gridDim.y + blockIdx.y) * (TABLES * HEAD_DIM) +
                      of * HEAD_DIM + threadIdx.x % LANES * 8;
    const float4 a = __ldg((const float4 *)at);
    const float4 b = __ldg((const float4 *)at + 1);
    return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
}

INLINE void make_queries(const Inputs &p, long long tile, int unit) {
    uint2 *to = p.q_tiles + tile * (UNIT_BYTES / 8);
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        const int row = pass * ROWS_AT_ONCE + threadIdx.x / LANES;
        const Eight x = rotated(read(p.q, p.q_strides, unit * UNIT + row, p.queries));
        const float most = fmaxf(row_max(largest(x)), LEAST);
        const float inverse = INT8_LARGEST / most;
        to[place_in_tile(row)] = make_uint2(four_in_int8(x.x, inverse), four_in_int8(x.x + 4, inverse));
        if (threadIdx.x % LANES == 0) {
            // Both transforms are too long by the root of a row's length.
            p.q_scales[tile * UNIT + row] = most / INT8_LARGEST * (p.scale * LOG2_E / HEAD_DIM);
        }
    }
}

INLINE void make_keys(const Inputs &p, long long tile, int unit) {
    __shared__ float of_warps[THREADS / 32];
    const Eight mean = table_of(p, KEY_MEAN);
    Eight rows[PASSES];
    float most = LEAST;
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        const int token = unit * UNIT + pass * ROWS_AT_ONCE + threadIdx.x / LANES;
        Eight k = read(p.k, p.k_strides, token, p.keys);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            k.x[i] = token < p.keys ? k.x[i] - mean.x[i] : 0.0f;
        }
        rows[pass] = rotated(k);
        most = fmaxf(most, largest(rows[pass]));
    }
    most = row_max(most);
    most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 16));
    if (threadIdx.x % 32 == 0) {
        of_warps[threadIdx.x / 32] = most;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) {
        most = fmaxf(most, of_warps[i]);
    }
    const float inverse = INT8_LARGEST / most;
    uint2 *to = p.k_tiles + tile * (UNIT_BYTES / 8);
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        const float *x = rows[pass].x;
        to[place_in_tile(pass * ROWS_AT_ONCE + threadIdx.x / LANES)] =
            make_uint2(four_in_int8(x, inverse), four_in_int8(x + 4, inverse));
    }
    if (threadIdx.x == 0) {
        p.k_scales[tile] = most / INT8_LARGEST;
    }
}

INLINE void make_values(const Inputs &p, long long tile, int unit) {
    __shared__ uint rows[UNIT][HEAD_DIM / 4 + 1];
    const Eight mean = table_of(p, VALUE_MEAN);
    Eight inverse = table_of(p, VALUE_SCALE);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        inverse.x[i] = 1.0f / inverse.x[i];
    }
    const int lane = threadIdx.x % LANES;
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        const int row = pass * ROWS_AT_ONCE + threadIdx.x / LANES;
        const int token = unit * UNIT + row;
        Eight v = read(p.v, p.v_strides, token, p.keys);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v.x[i] = token < p.keys ? (v.x[i] - mean.x[i]) * inverse.x[i] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float *x = v.x + 4 * i;
            rows[row][lane * 2 + i] = pair_in_e4m3(x[2], x[3]) << 16 | pair_in_e4m3(x[0], x[1]);
        }
    }
    __syncthreads();
    // Rows are channels now: 32 bytes in two chunks, swizzled over four rows.
    uint4 *to = p.v_tiles + tile * (UNIT_BYTES / 16);
    const unsigned char *bytes = (const unsigned char *)rows;
#pragma unroll
    for (int pass = 0; pass < UNIT_BYTES / 16 / THREADS; pass++) {
        const int at = pass * THREADS + threadIdx.x;
        const int channel = at % HEAD_DIM;
        const int chunk = at / HEAD_DIM;
        uint words[4];
#pragma unroll
        for (int t = 0; t < 4; t++) {
            words[t] = 0;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                // A lane of the scores' products holds columns 2t and 2t + 1 of each eight.
                const int token = chunk * 16 + e / 2 * 8 + 2 * t + e % 2;
                words[t] |= (uint)bytes[token * (HEAD_DIM + 4) + channel] << 8 * e;
            }
        }
        to[channel * 2 + (chunk ^ channel / 4 % 2)] =
            make_uint4(words[0], words[1], words[2], words[3]);
    }
}

// Block x is the tile: those of queries, then of keys, then of values; y the head, z the batch entry.
extern "C" __global__ void __launch_bounds__(THREADS) input_tiles(const __grid_constant__ Inputs p) {
    const long long head = blockIdx.z * gridDim.y + blockIdx.y;
    int unit = blockIdx.x;
    if (unit < p.q_units) {
        make_queries(p, head * p.q_units + unit, unit);
        return;
    }
    unit -= p.q_units;
    if (unit < p.k_units) {
        make_keys(p, head * p.k_units + unit, unit);
    } else {
        unit -= p.k_units;
        make_values(p, head * p.k_units + unit, unit);
    }
}

#endif
