// Attention backward for Hopper (sm_90a), head size 128, in bf16 or f16, over all keys.
//
// Two passes, each of which sums in registers in a fixed order, so that results are reproducible:
// one for the gradient of the queries, one for those of keys and values. A block of threads makes
// 64 result rows per consumer warpgroup. Two tensors of these rows stay in shared memory; of the
// two others, whose rows are walked, a producer thread keeps rings of tiles full by TMA. With fixed
// rows x, y and walked rows X, Y, a step is
//   s = x X'    d = y Y'    p = exp(scale s - lse)    g = p (d - delta)    dx += g X    dy += p' Y
// where the pass of the queries has x = q, y = d_out, X = k, Y = v and no dy, and the pass of the
// keys has x = k, y = v, X = q, Y = d_out: its scores are transposed, and p and g are again in the
// registers that the next product reads its left operand from.
//
// Here is the pass that comes before these, of statistics; the two are in
// attention_backward_products.cu.
//
// Compiled at run time behind halves.cuh and common.cuh, with their macros and these:
//   PASS        0: statistics of the rows, 1: gradient of the queries, 2: of the keys and values
//   WARPGROUPS  consumer warpgroups
//   STEP        walked rows per step: 64, 80, 96, 112 or 128
//   TURNS       1: the two warpgroups take turns at the tensor cores
//   ORDER       0: d is started before g X of the last step, 1: after it, 2: when s and g X ended,
//               and g is computed from the rounded p; each needs fewer registers than the one
//               before. The pass of the queries knows 0 only.
//   IN_REGISTERS  how many of the fixed tensors, 0 to 2, stay in registers, which relieves shared
//               memory
//   CONSUMER_REGISTERS, PRODUCER_REGISTERS

#if PASS == 0

// ---- Statistics -------------------------------------------------------------------------------

struct Parameters {
    // [B, H, Nq, 128], last stride 1, the others multiples of 8.
    const ushort1 *out;
    const ushort1 *d_out;
    // [B, H, Nq], contiguous.
    const float *lse;
    // [B, H, 2, padded]: log-sum-exp in base 2, and sum(out * d_out). Past the last query they are
    // infinite and zero, so that probabilities and gradients are zero there.
    float *statistics;
    // In elements, of the first three dimensions.
    long long out_strides[3];
    long long d_out_strides[3];
    int queries;
    int padded;
};

constexpr int LANES = 16;
constexpr int ROWS = 16;
constexpr int THREADS = LANES * ROWS;

// Block x is the group of rows, y the head, z the batch entry. 16 lanes share a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_backward(const __grid_constant__ Parameters p) {
    const int lane = threadIdx.x % LANES;
    const int row = blockIdx.x * ROWS + threadIdx.x / LANES;
    const int head = blockIdx.y;
    const int batch = blockIdx.z;
    const long long entry = (long long)batch * gridDim.y + head;
    float sum = 0.0f;
    if (row < p.queries) {
        const uint4 a = *(const uint4 *)(p.out + batch * p.out_strides[0] +
                                         head * p.out_strides[1] + row * p.out_strides[2] +
                                         lane * 8);
        const uint4 b = *(const uint4 *)(p.d_out + batch * p.d_out_strides[0] +
                                         head * p.d_out_strides[1] + row * p.d_out_strides[2] +
                                         lane * 8);
        const uint left[4] = {a.x, a.y, a.z, a.w};
        const uint right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sum = fmaf(low_half(left[i]), low_half(right[i]), sum);
            sum = fmaf(high_half(left[i]), high_half(right[i]), sum);
        }
    }
#pragma unroll
    for (int apart = LANES / 2; apart > 0; apart /= 2) {
        sum += __shfl_xor_sync(0xffffffff, sum, apart);
    }
    if (lane == 0 && row < p.padded) {
        float *to = p.statistics + entry * 2 * p.padded + row;
        const bool real = row < p.queries;
        to[0] = real ? p.lse[entry * p.queries + row] * LOG2_E : __int_as_float(0x7f800000);
        to[p.padded] = real ? sum : 0.0f;
    }
}

#endif
