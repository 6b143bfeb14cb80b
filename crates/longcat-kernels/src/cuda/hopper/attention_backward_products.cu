// The two passes of the backward, for the gradient of the queries and for those of keys and values.
// Compiled behind attention_backward.cu, which says what they compute.

#if PASS != 0

#if PASS == 1 && ORDER != 0
#error "no such order"
#endif

// ---- Layout -----------------------------------------------------------------------------------

constexpr int ROWS = 64 * WARPGROUPS;
constexpr int THREADS = 128 * (WARPGROUPS + 1);

constexpr uint FIXED_HALF = 64 * ROW_BYTES;
constexpr uint FIXED_TILE = 2 * FIXED_HALF;
constexpr uint WALKED_HALF = STEP * ROW_BYTES;
constexpr uint WALKED_TILE = 2 * WALKED_HALF;
// Of the walked rows, if these are queries: log-sum-exp, then sum(out * d_out).
constexpr uint STATISTIC = 4 * STEP;

// Shared memory, in bytes from its start. The tiles need multiples of 1024.
constexpr uint FIXED_Y_AT = WARPGROUPS * FIXED_TILE;
constexpr uint X_AT = 2 * WARPGROUPS * FIXED_TILE;
constexpr uint Y_AT = X_AT + STAGES * WALKED_TILE;
constexpr uint STATISTICS_AT = Y_AT + STAGES * WALKED_TILE;
constexpr uint FIXED_FULL = STATISTICS_AT + STAGES * 2 * STATISTIC;
constexpr uint X_FULL = FIXED_FULL + 8;
constexpr uint X_EMPTY = X_FULL + 8 * STAGES;
constexpr uint Y_FULL = X_EMPTY + 8 * STAGES;
constexpr uint Y_EMPTY = Y_FULL + 8 * STAGES;

struct Parameters {
    // dq, or dk and dv: [B, H, N, 128], last stride 1, the others even.
    ushort1 *x_out;
    ushort1 *y_out;
    // As pass 0 leaves them; `padded` is a multiple of 4 past the end of the last step.
    const float *statistics;
    // In elements, of the first three dimensions.
    long long x_strides[3];
    long long y_strides[3];
    // Fixed and walked.
    int rows;
    int walked;
    int padded;
    float scale;
};

// ---- The producer -----------------------------------------------------------------------------

INLINE void load_numbers(uint to, const float *from, uint barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(to),
        "l"(__cvta_generic_to_global(from)), "r"(STATISTIC), "r"(barrier)
        : "memory");
}

// Both halves of a tile of 64 fixed rows.
INLINE void load_fixed(
    uint to, const TensorMap &map, uint barrier, int row, int head, int batch) {
    load(to, map, barrier, 0, row, head, batch);
    load(to + FIXED_HALF, map, barrier, 64, row, head, batch);
}

// Both halves of a tile of walked rows; in a cluster each block fetches one of them for all.
INLINE void load_walked(
    uint to, const TensorMap &map, uint barrier, int row, int head, int batch, int rank) {
#if CLUSTER == 1
    load(to, map, barrier, 0, row, head, batch);
    load(to + WALKED_HALF, map, barrier, 64, row, head, batch);
#else
    load_for_all(to + rank * WALKED_HALF, map, barrier, rank * 64, row, head, batch);
#endif
}

INLINE void produce(
    const TensorMap &fixed_x, const TensorMap &fixed_y, const TensorMap &walked_x,
    const TensorMap &walked_y, const float *statistics, int padded, uint shared, int first,
    int head, int batch, int steps, int rank) {
    expect_bytes(shared + FIXED_FULL, 2 * WARPGROUPS * FIXED_TILE);
#pragma unroll
    for (int i = 0; i < WARPGROUPS; i++) {
        load_fixed(shared + i * FIXED_TILE, fixed_x, shared + FIXED_FULL, first + i * 64, head,
                   batch);
        load_fixed(shared + FIXED_Y_AT + i * FIXED_TILE, fixed_y, shared + FIXED_FULL,
                   first + i * 64, head, batch);
    }
    Slot slot;
    for (int step = 0; step < steps; step++) {
        const uint x_full = shared + X_FULL + 8 * slot.stage;
        const uint y_full = shared + Y_FULL + 8 * slot.stage;
        wait(shared + X_EMPTY + 8 * slot.stage, slot.parity ^ 1);
        expect_bytes(x_full, WALKED_TILE + (PASS == 2 ? 2 * STATISTIC : 0));
        load_walked(shared + X_AT + slot.stage * WALKED_TILE, walked_x, x_full, step * STEP, head,
                    batch, rank);
        if (PASS == 2) {
            const uint to = shared + STATISTICS_AT + slot.stage * 2 * STATISTIC;
            load_numbers(to, statistics + step * STEP, x_full);
            load_numbers(to + STATISTIC, statistics + padded + step * STEP, x_full);
        }
        wait(shared + Y_EMPTY + 8 * slot.stage, slot.parity ^ 1);
        expect_bytes(y_full, WALKED_TILE);
        load_walked(shared + Y_AT + slot.stage * WALKED_TILE, walked_y, y_full, step * STEP, head,
                    batch, rank);
        slot.next();
    }
}

// ---- The consumers ----------------------------------------------------------------------------

// Named barriers by which two warpgroups take turns; barrier 0 is that of __syncthreads.
INLINE void take_turn(int warpgroup) {
#if TURNS
    asm volatile("bar.sync %0, 256;" ::"r"(1 + warpgroup) : "memory");
#endif
}

INLINE void give_turn(int warpgroup) {
#if TURNS
    asm volatile("bar.arrive %0, 256;" ::"r"(2 - warpgroup) : "memory");
#endif
}

// As the function of the same name in common.cuh, for all numbers whose bits are in `bits`.
INLINE void compute_first(uint bits, bool never, uint scratch) {
    asm volatile(
        "{\n .reg .pred never;\n setp.ne.s32 never, %1, 0;\n"
        " @never st.shared.u32 [%2], %0;\n}" ::"r"(bits),
        "r"((int)never), "r"(scratch)
        : "memory");
}

INLINE float2 read_pair(uint at) {
    float2 pair;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(at));
    return pair;
}

// The fixed rows of a warpgroup as left operands, 16 columns each.
INLINE void read_fixed(uint (&to)[HEAD_DIM / 16][4], uint tile, int warp, int lane) {
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 4; i++) {
        // Of 16 columns: upper and lower row of the first 8, then of the last 8.
        const uint row = warp * 16 + i % 2 * 8 + lane / 4;
        const uint chunk = i / 2 % 8 ^ row % 8;
        const uint at = tile + i / 16 * FIXED_HALF + row * ROW_BYTES + chunk * 16 + lane % 4 * 4;
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(to[i / 4][i % 4]) : "r"(at) : "memory");
    }
}

// The left operand of the products with 16 columns.
INLINE ulong operand(ulong tile, int i) {
    return tile + i / 4 * (FIXED_HALF >> 4) + i % 4 * 2;
}

INLINE const uint (&operand(const uint (&fixed)[HEAD_DIM / 16][4], int i))[4] {
    return fixed[i];
}

// Fixed by walked rows. Descriptors count in 16 bytes: 16 columns are 2, a half is HALF >> 4.
template <typename Fixed>
INLINE void multiply_all(float (&to)[STEP / 2], const Fixed &fixed, ulong tile) {
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 16; i++) {
        multiply(to, operand(fixed, i), tile + i / 4 * (WALKED_HALF >> 4) + i % 4 * 2, i > 0);
    }
    end_products();
}

// Adds left operands of 16 columns each by walked rows, of which 16 are 128 * 16 bytes.
INLINE void add_all(float (&to)[64], const uint (&from)[STEP / 4], ulong tile) {
#pragma unroll
    for (int i = 0; i < STEP / 16; i++) {
        multiply_rows(to, from + 4 * i, tile + i * 128);
    }
    end_products();
}

// The accumulators of 16 columns are, pair by pair, the left operand of the next product.
INLINE void pack_all(uint (&to)[STEP / 4], const float (&from)[STEP / 2]) {
#pragma unroll
    for (int i = 0; i < STEP / 4; i++) {
        to[i] = pack(from[2 * i], from[2 * i + 1]);
    }
}

// A lane holds elements of two rows, lane / 4 and 8 more, of its warp's 16: of 8 columns in turn
// those at 2 * (lane % 4) and the next, first of the upper row, then of the lower.
INLINE void store(
    const float (&x)[64], ushort1 *tensor, const long long *strides, float factor, int first,
    int rows, int head, int batch, int lane) {
    uint *out = (uint *)(tensor + batch * strides[0] + head * strides[1]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = first + r * 8 + lane / 4;
        if (row < rows) {
            uint *at = out + row * strides[2] / 2 + lane % 4;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                at[4 * i] = pack(x[4 * i + 2 * r] * factor, x[4 * i + 2 * r + 1] * factor);
            }
        }
    }
}

INLINE void consume(
    const Parameters &p, const float *statistics, uint shared, int first, int head, int batch,
    int steps, int warpgroup) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32 % 4;
    const float scale_log2 = p.scale * LOG2_E;
    float dx[64];
#if PASS == 2
    float dy[64];
#endif
#pragma unroll
    for (int i = 0; i < 64; i++) {
        dx[i] = 0.0f;
#if PASS == 2
        dy[i] = 0.0f;
#endif
    }

#if PASS == 1
    float lse[2];
    float delta[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = first + warpgroup * 64 + warp * 16 + r * 8 + lane / 4;
        lse[r] = row < p.rows ? statistics[row] : __int_as_float(0x7f800000);
        delta[r] = row < p.rows ? statistics[p.padded + row] : 0.0f;
    }
#endif

    wait(shared + FIXED_FULL, 0);
#if IN_REGISTERS > 0
    uint fixed_x[HEAD_DIM / 16][4];
    read_fixed(fixed_x, shared + warpgroup * FIXED_TILE, warp, lane);
#else
    const ulong fixed_x = describe(shared + warpgroup * FIXED_TILE, FIXED_HALF);
#endif
#if IN_REGISTERS > 1
    uint fixed_y[HEAD_DIM / 16][4];
    read_fixed(fixed_y, shared + FIXED_Y_AT + warpgroup * FIXED_TILE, warp, lane);
#else
    const ulong fixed_y = describe(shared + FIXED_Y_AT + warpgroup * FIXED_TILE, FIXED_HALF);
#endif
    const ulong walked_x = describe(shared + X_AT, WALKED_HALF);
    const ulong walked_y = describe(shared + Y_AT, WALKED_HALF);
    Slot slot;
    uint last = 0;
    uint gradients[STEP / 4];
    // Leaves the score gradients packed, for the next step to multiply with, and nothing running.
    auto one_step = [&](int step, bool is_first) {
        float s[STEP / 2];
        float d[STEP / 2];
        wait(shared + X_FULL + 8 * slot.stage, slot.parity);
        wait(shared + Y_FULL + 8 * slot.stage, slot.parity);
        take_turn(warpgroup);
        begin_products();
        multiply_all(s, fixed_x, walked_x + slot.stage * (WALKED_TILE >> 4));
#if ORDER == 0
        multiply_all(d, fixed_y, walked_y + slot.stage * (WALKED_TILE >> 4));
#endif
        if (!is_first) {
            add_all(dx, gradients, walked_x + last * (WALKED_TILE >> 4));
        }
#if ORDER == 1
        multiply_all(d, fixed_y, walked_y + slot.stage * (WALKED_TILE >> 4));
#endif
        // The first to start has had one turn more to wait for than the other gives at the end.
        if (warpgroup == 0 || step + 1 < steps) {
            give_turn(warpgroup);
        }
        if (ORDER == 2) {
            wait_products<0>();
        } else if (ORDER == 1 || is_first) {
            wait_products<1>();
        } else {
            wait_products<2>();
        }
        settle(s);
#if ORDER > 0
        // These ended too, and their operands make room.
        settle(dx);
        if (!is_first) {
            release(shared + X_EMPTY + 8 * last, lane);
        }
#endif
#if PASS == 1
        const int valid = p.walked - step * STEP;
        if (valid < STEP) {
#pragma unroll
            for (int i = 0; i < STEP / 2; i++) {
                const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
                if (column >= valid) {
                    s[i] = __int_as_float(0xff800000);
                }
            }
        }
        uint bits = 0;
#pragma unroll
        for (int i = 0; i < STEP / 2; i++) {
            s[i] = exp2_fast(fmaf(s[i], scale_log2, -lse[i / 2 % 2]));
            bits |= __float_as_uint(s[i]);
        }
        compute_first(bits, p.padded < 0, shared + STATISTICS_AT);
        if (is_first) {
            wait_products<0>();
        } else {
            wait_products<1>();
        }
        settle(d);
        release(shared + Y_EMPTY + 8 * slot.stage, lane);
#pragma unroll
        for (int i = 0; i < STEP / 2; i++) {
            s[i] *= d[i] - delta[i / 2 % 2];
        }
        bits = 0;
#pragma unroll
        for (int i = 0; i < STEP / 2; i++) {
            bits |= __float_as_uint(s[i]);
        }
        compute_first(bits, p.padded < 0, shared + STATISTICS_AT);
        wait_products<0>();
        settle(dx);
        if (!is_first) {
            release(shared + X_EMPTY + 8 * last, lane);
        }
        pack_all(gradients, s);
#else
#if ORDER == 2
        begin_products();
        multiply_all(d, fixed_y, walked_y + slot.stage * (WALKED_TILE >> 4));
#endif
        const uint numbers =
            shared + STATISTICS_AT + slot.stage * 2 * STATISTIC + lane % 4 * 8;
#pragma unroll
        for (int i = 0; i < STEP / 2; i += 4) {
            const float2 lse = read_pair(numbers + 8 * i);
            s[i] = exp2_fast(fmaf(s[i], scale_log2, -lse.x));
            s[i + 1] = exp2_fast(fmaf(s[i + 1], scale_log2, -lse.y));
            s[i + 2] = exp2_fast(fmaf(s[i + 2], scale_log2, -lse.x));
            s[i + 3] = exp2_fast(fmaf(s[i + 3], scale_log2, -lse.y));
        }
        uint weights[STEP / 4];
        pack_all(weights, s);
        begin_products();
        add_all(dy, weights, walked_y + slot.stage * (WALKED_TILE >> 4));
        // Only these may still run.
        wait_products<1>();
        settle(d);
#if ORDER == 0
        if (!is_first) {
            release(shared + X_EMPTY + 8 * last, lane);
        }
#endif
#pragma unroll
        for (int i = 0; i < STEP / 2; i += 4) {
            const float2 delta = read_pair(numbers + STATISTIC + 8 * i);
#if ORDER == 2
            s[i] = low_half(weights[i / 2]);
            s[i + 1] = high_half(weights[i / 2]);
            s[i + 2] = low_half(weights[i / 2 + 1]);
            s[i + 3] = high_half(weights[i / 2 + 1]);
#endif
            s[i] *= d[i] - delta.x;
            s[i + 1] *= d[i + 1] - delta.y;
            s[i + 2] *= d[i + 2] - delta.x;
            s[i + 3] *= d[i + 3] - delta.y;
        }
#if ORDER == 0
        pack_all(gradients, s);
#endif
        wait_products<0>();
        settle(dy);
#if ORDER > 0
        pack_all(gradients, s);
#endif
        release(shared + Y_EMPTY + 8 * slot.stage, lane);
#endif
        last = slot.stage;
        slot.next();
    };

    if (warpgroup == 1) {
        give_turn(1);
    }
    one_step(0, true);
    for (int step = 1; step < steps; step++) {
        one_step(step, false);
    }
    begin_products();
    add_all(dx, gradients, walked_x + last * (WALKED_TILE >> 4));
    wait_products<0>();
    settle(dx);
    const int row = first + warpgroup * 64 + warp * 16;
    store(dx, p.x_out, p.x_strides, p.scale, row, p.rows, head, batch, lane);
#if PASS == 2
    store(dy, p.y_out, p.y_strides, 1.0f, row, p.rows, head, batch, lane);
#endif
}

// Block x is the tile of result rows, y the head, z the batch entry.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
#if CLUSTER > 1
    __cluster_dims__(CLUSTER, 1, 1)
#endif
    attention_backward(
        const __grid_constant__ TensorMap fixed_x, const __grid_constant__ TensorMap fixed_y,
        const __grid_constant__ TensorMap walked_x, const __grid_constant__ TensorMap walked_y,
        const __grid_constant__ Parameters p) {
    extern __shared__ __align__(1024) char memory[];
    const uint shared = (uint)__cvta_generic_to_shared(memory);
    const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
    const int first = blockIdx.x * ROWS;
    const int head = blockIdx.y;
    const int batch = blockIdx.z;
    const int steps = (p.walked + STEP - 1) / STEP;
    const float *statistics =
        p.statistics + ((long long)batch * gridDim.y + head) * 2 * p.padded;

    if (threadIdx.x == 0) {
        if (shared % 1024 != 0) {
            __trap();
        }
        init_barrier(shared + FIXED_FULL, 1);
        for (int i = 0; i < STAGES; i++) {
            init_barrier(shared + X_FULL + 8 * i, 1);
            init_barrier(shared + Y_FULL + 8 * i, 1);
            init_barrier(shared + X_EMPTY + 8 * i, 4 * WARPGROUPS * CLUSTER);
            init_barrier(shared + Y_EMPTY + 8 * i, 4 * WARPGROUPS * CLUSTER);
        }
        asm volatile("fence.mbarrier_init.release.cluster;\n fence.proxy.async.shared::cta;" ::
                         : "memory");
    }
    __syncthreads();
    sync_cluster();

    if (warpgroup == WARPGROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
        if (threadIdx.x == WARPGROUPS * 128) {
            produce(fixed_x, fixed_y, walked_x, walked_y, statistics, p.padded, shared, first, head,
                    batch, steps, CLUSTER > 1 ? blockIdx.x % CLUSTER : 0);
        }
        __syncwarp();
        // No block may end while its neighbour still sends to it.
        sync_cluster();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
        consume(p, statistics, shared, first, head, batch, steps, warpgroup);
        sync_cluster();
    }
}

#endif
