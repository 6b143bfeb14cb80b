// Attention forward for Hopper (sm_90a), head size 128, in bf16 or f16.
//
// A block of threads computes 64 query rows per consumer warpgroup. One thread of a further
// warpgroup, the producer, keeps rings of key and value tiles in shared memory full with the tensor
// memory accelerator (TMA); the consumers multiply with wgmma and never touch global memory before
// the end. The products of scores for step i run while the products with the values of step i - 1
// do, and the softmax of step i while the latter still run.
//
// Compiled at run time behind halves.cuh and common.cuh, with these macros:
//   HALF            0: bf16, 1: f16
//   SPARSE          0: all keys, 1: a list of key blocks per query block
//   WARPGROUPS      consumer warpgroups; 1 if sparse, since each block of 64 queries has its list
//   KEYS            keys per step: 64, 128, 160 or 176
//   STAGES          tiles in each ring
//   CLUSTER         1, or 2: neighbouring blocks load half of each tile and send it to both
//   TURNS           1: the two warpgroups take turns at the tensor cores
//   Q_IN_REGISTERS  1: queries stay in registers, which relieves shared memory when KEYS is small
//   BLOCKS_PER_SM, CONSUMER_REGISTERS, PRODUCER_REGISTERS

constexpr int ROWS = 64 * WARPGROUPS;
constexpr int THREADS = 128 * (WARPGROUPS + 1);

constexpr uint Q_HALF = 64 * ROW_BYTES;
constexpr uint KV_HALF = KEYS * ROW_BYTES;
constexpr uint KV_TILE = 2 * KV_HALF;

// Shared memory, in bytes from its start. The tiles need multiples of 1024.
constexpr uint K_AT = 2 * Q_HALF * WARPGROUPS;
constexpr uint V_AT = K_AT + STAGES * KV_TILE;
constexpr uint BARRIERS_AT = V_AT + STAGES * KV_TILE;
constexpr uint Q_FULL = BARRIERS_AT;
constexpr uint K_FULL = Q_FULL + 8;
constexpr uint K_EMPTY = K_FULL + 8 * STAGES;
constexpr uint V_FULL = K_EMPTY + 8 * STAGES;
constexpr uint V_EMPTY = V_FULL + 8 * STAGES;
// The number of real keys of each key tile.
constexpr uint VALID_AT = V_EMPTY + 8 * STAGES;

// Probabilities may exceed 1 by this power of two before the running maximum is moved: rescaling is
// rare then, and sums stay far inside the range of f16 and f32.
constexpr float LAZY_EXPONENT = 8.0f;
// Maximum of a row that has seen no key; finite, so that differences are numbers.
constexpr float NO_MAXIMUM = -1.0e30f;

struct Parameters {
    // [B, H, Nq, 128], last stride 1, the others even.
    ushort1 *out;
    // [B, H, Nq], contiguous, natural logarithm.
    float *lse;
    // [B, H, Nq / block_q, width], [B, H, Nq / block_q] and [Nk / block_k]; read if SPARSE.
    const int *indices;
    const int *counts;
    const int *key_valid;
    // In elements, of the first three dimensions.
    long long out_strides[3];
    long long indices_strides[3];
    long long counts_strides[3];
    int queries;
    int keys;
    // Multiples of 64; read if SPARSE.
    int block_q;
    int block_k;
    float scale;
};

// ---- Copies -----------------------------------------------------------------------------------

// Both halves of a tile; in a cluster each block fetches one of them for all.
INLINE void load_tile(
    uint to, const TensorMap &map, uint barrier, int row, int head, int batch, int rank) {
    expect_bytes(barrier, KV_TILE);
#if CLUSTER == 1
    load(to, map, barrier, 0, row, head, batch);
    load(to + KV_HALF, map, barrier, 64, row, head, batch);
#else
    load_for_all(to + rank * KV_HALF, map, barrier, rank * 64, row, head, batch);
#endif
}

// ---- Softmax ----------------------------------------------------------------------------------

// Over the four lanes that share a row.
INLINE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}

INLINE float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffff, x, 1);
    return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// A lane holds elements of two rows, lane / 4 and 8 more, of its warp's 16: of 8 columns in turn
// those at 2 * (lane % 4) and the next, first of the upper row, then of the lower.
struct Rows {
    float scale_log2;
    float lazy;
    // Of unscaled scores; and this lane's share of the sum of probabilities.
    float maximum[2];
    float sum[2];
    // What results so far are to be multiplied by, if `moved`; that is the same in the whole warp.
    float fade[2];
    bool moved;
};

INLINE void mask(float (&s)[KEYS / 2], int valid, int lane) {
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (column >= valid) {
            s[i] = __int_as_float(0xff800000);
        }
    }
}

// Turns scores into probabilities relative to the running maximum.
INLINE void softmax(float (&s)[KEYS / 2], Rows &rows) {
    float high[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float even = s[2 * r];
        float odd = s[2 * r + 1];
#pragma unroll
        for (int i = 4; i < KEYS / 2; i += 4) {
            even = fmaxf(even, s[i + 2 * r]);
            odd = fmaxf(odd, s[i + 2 * r + 1]);
        }
        high[r] = quad_max(fmaxf(even, odd));
    }
    rows.moved = __any_sync(
        0xffffffff,
        high[0] > rows.maximum[0] + rows.lazy || high[1] > rows.maximum[1] + rows.lazy);
    if (rows.moved) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float maximum = fmaxf(rows.maximum[r], high[r]);
            rows.fade[r] = exp2_fast((rows.maximum[r] - maximum) * rows.scale_log2);
            rows.maximum[r] = maximum;
            rows.sum[r] *= rows.fade[r];
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float shift = rows.maximum[r] * rows.scale_log2;
        float odd = 0.0f;
#pragma unroll
        for (int i = 2 * r; i < KEYS / 2; i += 4) {
            s[i] = exp2_fast(fmaf(s[i], rows.scale_log2, -shift));
            s[i + 1] = exp2_fast(fmaf(s[i + 1], rows.scale_log2, -shift));
            rows.sum[r] += s[i];
            odd += s[i + 1];
        }
        rows.sum[r] += odd;
    }
}

// The accumulators of 16 columns are, pair by pair, the left operand of the next product.
INLINE void pack_all(uint (&p)[KEYS / 4], const float (&s)[KEYS / 2]) {
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) {
        p[i] = pack(s[2 * i], s[2 * i + 1]);
    }
}

INLINE void fade_results(float (&o)[64], const Rows &rows) {
    if (rows.moved) {
#pragma unroll
        for (int i = 0; i < 64; i++) {
            o[i] *= rows.fade[i / 2 % 2];
        }
    }
}

// ---- The two roles ----------------------------------------------------------------------------

// Where the keys of a step start, and how many of them are real.
struct Keys {
    int start;
    int valid;
};

INLINE Keys keys_of(const Parameters &p, const int *list, int step, int steps) {
#if SPARSE
    const int per_block = p.block_k / KEYS;
    const int block = __ldg(list + step / per_block);
    const int inside = step % per_block * KEYS;
    return {block * p.block_k + inside, __ldg(p.key_valid + block) - inside};
#else
    // Backwards, so that only the first step is ragged.
    const int start = (steps - 1 - step) * KEYS;
    return {start, p.keys - start};
#endif
}

INLINE void produce(
    const TensorMap &q_map, const TensorMap &k_map, const TensorMap &v_map, const Parameters &p,
    const int *list, uint shared, int first_query, int head, int batch, int steps, int rank) {
    expect_bytes(shared + Q_FULL, 2 * Q_HALF * WARPGROUPS);
#pragma unroll
    for (int i = 0; i < 2 * WARPGROUPS; i++) {
        load(shared + i * Q_HALF, q_map, shared + Q_FULL, i % 2 * 64, first_query + i / 2 * 64, head,
             batch);
    }
    Slot slot;
    Keys next = keys_of(p, list, 0, steps);
    for (int step = 0; step < steps; step++) {
        const Keys keys = next;
        if (step + 1 < steps) {
            next = keys_of(p, list, step + 1, steps);
        }
        wait(shared + K_EMPTY + 8 * slot.stage, slot.parity ^ 1);
        if (SPARSE) {
            asm volatile("st.shared.s32 [%0], %1;" ::"r"(shared + VALID_AT + 4 * slot.stage),
                         "r"(keys.valid)
                         : "memory");
        }
        load_tile(shared + K_AT + slot.stage * KV_TILE, k_map, shared + K_FULL + 8 * slot.stage,
                  keys.start, head, batch, rank);
        wait(shared + V_EMPTY + 8 * slot.stage, slot.parity ^ 1);
        load_tile(shared + V_AT + slot.stage * KV_TILE, v_map, shared + V_FULL + 8 * slot.stage,
                  keys.start, head, batch, rank);
        slot.next();
    }
}

// The real keys of the step in `stage`.
INLINE int valid_keys(uint shared, uint stage) {
    int valid;
    asm volatile("ld.shared.s32 %0, [%1];" : "=r"(valid) : "r"(shared + VALID_AT + 4 * stage)
                 : "memory");
    return valid;
}

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

INLINE void consume(
    const Parameters &p, uint shared, int first_query, int head, int batch, int steps,
    int warpgroup) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32 % 4;
    float o[64];
#pragma unroll
    for (int i = 0; i < 64; i++) {
        o[i] = 0.0f;
    }
    Rows rows;
    rows.scale_log2 = p.scale * LOG2_E;
    rows.lazy = LAZY_EXPONENT / rows.scale_log2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        rows.maximum[r] = NO_MAXIMUM;
        rows.sum[r] = 0.0f;
        rows.fade[r] = 1.0f;
    }

    if (steps > 0) {
        const uint q_tile = shared + warpgroup * 2 * Q_HALF;
        wait(shared + Q_FULL, 0);
#if Q_IN_REGISTERS
        uint q[HEAD_DIM / 16][4];
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 4; i++) {
            // Of 16 columns: upper and lower row of the first 8, then of the last 8.
            const uint row = warp * 16 + i % 2 * 8 + lane / 4;
            const uint chunk = i / 2 % 8 ^ row % 8;
            const uint at = q_tile + i / 16 * Q_HALF + row * ROW_BYTES + chunk * 16 + lane % 4 * 4;
            asm volatile("ld.shared.u32 %0, [%1];" : "=r"(q[i / 4][i % 4]) : "r"(at) : "memory");
        }
#else
        const ulong q = describe(q_tile, Q_HALF);
#endif
        const ulong k = describe(shared + K_AT, KV_HALF);
        const ulong v = describe(shared + V_AT, KV_HALF);
        float s[KEYS / 2];
        uint probabilities[KEYS / 4];

        // Descriptors count in 16 bytes: 16 columns are 2, a half is HALF >> 4, 16 rows are 128.
        auto multiply_all_keys = [&](uint stage) {
            const ulong tile = k + stage * (KV_TILE >> 4);
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; i++) {
                const ulong k_at = tile + i / 4 * (KV_HALF >> 4) + i % 4 * 2;
#if Q_IN_REGISTERS
                multiply(s, q[i], k_at, i > 0);
#else
                multiply(s, q + i / 4 * (Q_HALF >> 4) + i % 4 * 2, k_at, i > 0);
#endif
            }
            end_products();
        };
        auto multiply_all_values = [&](uint stage) {
            const ulong tile = v + stage * (KV_TILE >> 4);
#pragma unroll
            for (int i = 0; i < KEYS / 16; i++) {
                multiply_rows(o, probabilities + 4 * i, tile + i * 128);
            }
            end_products();
        };

        Slot k_slot;
        Slot v_slot;
        wait(shared + K_FULL, 0);
        begin_products();
        multiply_all_keys(0);
        wait_products<0>();
        settle(s);
        {
            const int valid = SPARSE ? valid_keys(shared, 0) : p.keys - (steps - 1) * KEYS;
            if (valid < KEYS) {
                mask(s, valid, lane);
            }
        }
        release(shared + K_EMPTY, lane);
        k_slot.next();
        softmax(s, rows);
        pack_all(probabilities, s);
        if (warpgroup == 1 && steps > 1) {
            give_turn(1);
        }

        for (int step = 1; step < steps; step++) {
            wait(shared + K_FULL + 8 * k_slot.stage, k_slot.parity);
            wait(shared + V_FULL + 8 * v_slot.stage, v_slot.parity);
            take_turn(warpgroup);
            begin_products();
            multiply_all_keys(k_slot.stage);
            multiply_all_values(v_slot.stage);
            // The first to start has had one turn more to wait for than the other gives at the end.
            if (warpgroup == 0 || step + 1 < steps) {
                give_turn(warpgroup);
            }
            wait_products<1>();
            settle(s);
            if (SPARSE) {
                const int valid = valid_keys(shared, k_slot.stage);
                if (valid < KEYS) {
                    mask(s, valid, lane);
                }
            }
            release(shared + K_EMPTY + 8 * k_slot.stage, lane);
            softmax(s, rows);
            compute_first(rows.sum[0] + rows.sum[1], shared + VALID_AT);
            wait_products<0>();
            settle(o);
            release(shared + V_EMPTY + 8 * v_slot.stage, lane);
            fade_results(o, rows);
            pack_all(probabilities, s);
            k_slot.next();
            v_slot.next();
        }

        wait(shared + V_FULL + 8 * v_slot.stage, v_slot.parity);
        begin_products();
        multiply_all_values(v_slot.stage);
        wait_products<0>();
        settle(o);
    }

    uint *out = (uint *)(p.out + batch * p.out_strides[0] + head * p.out_strides[1]);
    float *lse = p.lse + ((long long)batch * gridDim.y + head) * p.queries;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = first_query + warpgroup * 64 + warp * 16 + r * 8 + lane / 4;
        const float sum = quad_sum(rows.sum[r]);
        const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
        if (row < p.queries) {
            if (lane % 4 == 0) {
                lse[row] = rows.maximum[r] * p.scale + logf(sum);
            }
            uint *at = out + row * p.out_strides[2] / 2 + lane % 4;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                at[4 * i] =
                    pack(o[4 * i + 2 * r] * inverse, o[4 * i + 2 * r + 1] * inverse);
            }
        }
    }
}

// Block x is the query tile, y the head, z the batch entry.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
#if CLUSTER > 1
    __cluster_dims__(CLUSTER, 1, 1)
#endif
    attention_forward(
        const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
        const __grid_constant__ TensorMap v_map, const __grid_constant__ Parameters p) {
    extern __shared__ __align__(1024) char memory[];
    const uint shared = (uint)__cvta_generic_to_shared(memory);
    const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
    const int first_query = blockIdx.x * ROWS;
    const int head = blockIdx.y;
    const int batch = blockIdx.z;
#if SPARSE
    const int row = first_query / p.block_q;
    const int *list = p.indices + batch * p.indices_strides[0] + head * p.indices_strides[1] +
                      row * p.indices_strides[2];
    const int steps = p.counts[batch * p.counts_strides[0] + head * p.counts_strides[1] +
                               row * p.counts_strides[2]] *
                      (p.block_k / KEYS);
#else
    const int *list = nullptr;
    const int steps = (p.keys + KEYS - 1) / KEYS;
#endif

    if (threadIdx.x == 0) {
        if (shared % 1024 != 0) {
            __trap();
        }
        init_barrier(shared + Q_FULL, 1);
        for (int i = 0; i < STAGES; i++) {
            init_barrier(shared + K_FULL + 8 * i, 1);
            init_barrier(shared + V_FULL + 8 * i, 1);
            init_barrier(shared + K_EMPTY + 8 * i, 4 * WARPGROUPS * CLUSTER);
            init_barrier(shared + V_EMPTY + 8 * i, 4 * WARPGROUPS * CLUSTER);
        }
        asm volatile("fence.mbarrier_init.release.cluster;\n fence.proxy.async.shared::cta;" :::"memory");
    }
    __syncthreads();
    sync_cluster();

    if (warpgroup == WARPGROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
        if (threadIdx.x == WARPGROUPS * 128 && steps > 0) {
            produce(q_map, k_map, v_map, p, list, shared, first_query, head, batch, steps,
                    CLUSTER > 1 ? blockIdx.x % CLUSTER : 0);
        }
        __syncwarp();
        // No block may end while its neighbour still sends to it.
        sync_cluster();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
        consume(p, shared, first_query, head, batch, steps, warpgroup);
        sync_cluster();
    }
}
