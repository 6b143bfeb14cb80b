// Attention forward for Hopper (sm_90a) in eight bits, head size 128: scores of int8 queries and keys,
// probabilities and values in e4m3. inputs.cu writes what it reads; results are in bf16 or f16.
//
// As attention_forward.cu is built: a producer keeps rings of tiles full, and consumer warpgroups of 64
// query rows each multiply with wgmma, the scores of a step together with the values of the step before.
// What is different:
//
// - Scores are exact integers. They are summed on top of MAGIC, so that their bits read as floats are
//   MAGIC plus the score: nothing needs to be converted.
// - The accumulators of scores, row by row, are the left operand of the products with values as they
//   are, since tiles of values have their tokens in that order.
// - The matrix units sum products of 8-bit floats with fewer bits than f32 has, and e4m3 reaches down
//   to 2^-9 only. So every WINDOW steps their sums are added to those of all steps before, which are
//   kept in f32 in shared memory, and probabilities are relative to the maximum of the first step of
//   their window, unless a later one is far above it. A single token of great weight spoils no other
//   window than its own.
// - Softmax waits for both products: the tensor cores then work for other warpgroups.
//
// Compiled at run time behind halves.cuh, common.cuh and parts.cuh, with these macros:
//   HALF            0: bf16, 1: f16
//   SPARSE          0: all keys, 1: a list of key blocks per query block, so a ring per warpgroup
//   WARPGROUPS      consumer warpgroups
//   KEYS            keys per step, a multiple of 32
//   WINDOW          steps that the matrix units sum
//   STAGES          tiles in each ring
//   CONSUMER_REGISTERS, PRODUCER_REGISTERS

// ---- The two roles ----------------------------------------------------------------------------

INLINE Step step_of(const Parameters &p, const float *scales, const int *list, int step, int steps,
                    int units) {
    Step of;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
#if SPARSE
        // A last step may have a tile too many.
        const int at = min(step * UNITS + u, units - 1);
        const int per_block = p.block_k / UNIT;
        const int block = __ldg(list + at / per_block);
        const int inside = at % per_block;
        of.units[u] = block * per_block + inside;
        of.valid[u] = step * UNITS + u < units ? __ldg(p.key_valid + block) - inside * UNIT : 0;
#else
        // Backwards, so that only the first step is ragged.
        of.units[u] = (steps - 1 - step) * UNITS + u;
        of.valid[u] = p.keys - of.units[u] * UNIT;
#endif
        of.scales[u] = __ldg(scales + of.units[u]);
    }
    return of;
}

// What one thread does: fill a ring.
INLINE void produce(const Parameters &p, const int *list, uint shared, uint ring, uint barriers,
                    uint notes, long long head, int steps, int units) {
    const char *k = p.k + head * p.k_units * UNIT_BYTES;
    const char *v = p.v + head * p.k_units * UNIT_BYTES;
    const float *scales = p.k_scales + head * p.k_units;
    Slot slot;
    Step next = step_of(p, scales, list, 0, steps, units);
    for (int step = 0; step < steps; step++) {
        const Step now = next;
        if (step + 1 < steps) {
            next = step_of(p, scales, list, step + 1, steps, units);
        }
        wait(barriers + K_EMPTY + 8 * slot.stage, slot.parity ^ 1);
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(notes + NOTE_BYTES * slot.stage + 8 * u),
                         "r"(__float_as_uint(now.scales[u])), "r"(now.valid[u])
                         : "memory");
        }
        load_step(ring + K_AT + slot.stage * TILE_BYTES, k, now, barriers + K_FULL + 8 * slot.stage);
        wait(barriers + V_EMPTY + 8 * slot.stage, slot.parity ^ 1);
        load_step(ring + V_AT + slot.stage * TILE_BYTES, v, now, barriers + V_FULL + 8 * slot.stage);
        slot.next();
    }
}

// What the producer says of the step in `stage`.
INLINE void read_note(uint notes, uint stage, float (&scales)[UNITS], int (&valid)[UNITS]) {
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        uint scale;
        asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];"
                     : "=r"(scale), "=r"(valid[u])
                     : "r"(notes + NOTE_BYTES * stage + 8 * u)
                     : "memory");
        scales[u] = __uint_as_float(scale);
    }
}

INLINE bool is_ragged(const int (&valid)[UNITS]) {
    bool ragged = false;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        ragged |= valid[u] < UNIT;
    }
    return ragged;
}

// Results are in shared memory, four numbers of two columns and two rows at a time.
INLINE void store(uint at, const float *x) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at), "f"(x[0]), "f"(x[1]), "f"(x[2]),
                 "f"(x[3])
                 : "memory");
}

INLINE void add_four(float (&x)[4], uint at, const float *product, const Weights &w) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                 : "r"(at)
                 : "memory");
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[i] = fmaf(product[i], w.added[i / 2], x[i] * w.before[i / 2]);
    }
}

INLINE void add_to_results(uint results, const float (&product)[64], const Weights &w) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        float x[4];
        add_four(x, results + i * 2048, product + 4 * i, w);
        store(results + i * 2048, x);
    }
}

INLINE void consume(const Parameters &p, uint shared, uint ring, uint barriers, uint notes,
                    int first_query, long long head, int steps, int warpgroup) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32 % 4;
    const int first_row = first_query + warpgroup * ROWS + warp * 16 + lane / 4;
    // Four numbers of this thread at a time, every 16 bytes times 128 threads.
    const uint results = shared + RESULTS_AT + warpgroup * RESULT_BYTES + threadIdx.x % 128 * 16;
    float product[64];
    Rows rows;
    Weights last = {};
#pragma unroll
    for (int i = 0; i < 64; i++) {
        product[i] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 16; i++) {
        store(results + i * 2048, product + 4 * i);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        rows.scale[r] = __ldg(p.q_scales + head * p.q_units * UNIT + first_row + 8 * r);
        rows.reference[r] = NO_MAXIMUM;
        rows.sum[r] = 0.0f;
        rows.maximum[r] = NO_MAXIMUM;
        rows.total[r] = 0.0f;
    }

    // Also without a key: no block may end while its queries are on their way.
    wait(shared + Q_FULL, 0);
    if (steps > 0) {
        const ulong q = describe(shared + Q_AT + warpgroup * Q_BYTES, 0);
        const ulong k = describe(ring + K_AT, 0);
        const ulong v = describe_values(ring + V_AT);
        uint s[KEYS / 2];
        uint probabilities[KEYS / 8];
        float scale[2][UNITS];
        float scales[UNITS];
        int valid[UNITS];

        auto start_scores = [&]() {
#pragma unroll
            for (int i = 0; i < KEYS / 2; i++) {
                s[i] = MAGIC_BITS;
            }
            settle_integers(s);
        };
        // Descriptors count in 16 bytes: 32 numbers of a row are 2.
        auto multiply_all_keys = [&](uint stage) {
            const ulong tile = k + stage * (TILE_BYTES >> 4);
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 32; i++) {
                multiply_integers(s, q + 2 * i, tile + 2 * i);
            }
            end_products();
        };
        auto multiply_all_values = [&](uint stage, int more) {
            const ulong tile = v + stage * (TILE_BYTES >> 4);
#pragma unroll
            for (int i = 0; i < KEYS / 32; i++) {
                multiply_values(product, probabilities + 4 * i,
                                tile + i * (UNIT_BYTES >> 4), i > 0 ? 1 : more);
            }
            end_products();
        };

        Slot k_slot;
        Slot v_slot;
        float high[2];
        start_scores();
        wait(barriers + K_FULL, 0);
        read_note(notes, 0, scales, valid);
        begin_products();
        multiply_all_keys(0);
        wait_products<0>();
        settle_integers(s);
        if (is_ragged(valid)) {
            mask(s, valid, lane);
        }
        release(barriers + K_EMPTY, lane);
        k_slot.next();
        survey(high, scale, s, scales, rows);
        rows.reference[0] = quad_max(high[0]);
        rows.reference[1] = quad_max(high[1]);
        exponentiate(s, scale, rows);
        pack_all(probabilities, s);

        // Steps of the window so far, and whether the products to come add to those before.
        int since = 1;
        int more = 0;
        for (int step = 1; step < steps; step++) {
            start_scores();
            wait(barriers + K_FULL + 8 * k_slot.stage, k_slot.parity);
            wait(barriers + V_FULL + 8 * v_slot.stage, v_slot.parity);
            begin_products();
            multiply_all_keys(k_slot.stage);
            multiply_all_values(v_slot.stage, more);
            read_note(notes, k_slot.stage, scales, valid);
            wait_products<1>();
            settle_integers(s);
            if (SPARSE && is_ragged(valid)) {
                mask(s, valid, lane);
            }
            release(barriers + K_EMPTY + 8 * k_slot.stage, lane);
            survey(high, scale, s, scales, rows);
            const bool opens = since == WINDOW;
            bool raised = false;
            float fade[2];
            if (opens) {
                last = close_window(rows);
                rows.reference[0] = quad_max(high[0]);
                rows.reference[1] = quad_max(high[1]);
            } else {
                raised = __any_sync(0xffffffff, high[0] > rows.reference[0] + LAZY_EXPONENT ||
                                                    high[1] > rows.reference[1] + LAZY_EXPONENT);
                if (raised) {
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        const float reference = fmaxf(rows.reference[r], quad_max(high[r]));
                        fade[r] = exp2_fast(rows.reference[r] - reference);
                        rows.reference[r] = reference;
                        rows.sum[r] *= fade[r];
                    }
                }
            }
            wait_products<0>();
            settle(product);
            release(barriers + V_EMPTY + 8 * v_slot.stage, lane);
            exponentiate(s, scale, rows);
            pack_all(probabilities, s);
            if (opens) {
                add_to_results(results, product, last);
            } else if (raised) {
#pragma unroll
                for (int i = 0; i < 64; i++) {
                    product[i] *= fade[i / 2 % 2];
                }
            }
            more = !opens;
            since = opens ? 1 : since + 1;
            k_slot.next();
            v_slot.next();
        }

        wait(barriers + V_FULL + 8 * v_slot.stage, v_slot.parity);
        begin_products();
        multiply_all_values(v_slot.stage, more);
        wait_products<0>();
        settle(product);
        last = close_window(rows);
    }

    // The mean of values is everybody's, and each channel has a scale.
    const float2 *mean = (const float2 *)(p.tables + (head * 3 + 1) * HEAD_DIM) + lane % 4;
    const float2 *channel = mean + HEAD_DIM / 2;
    float inverse[2];
    float some[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float sum = quad_sum(rows.total[r]);
        inverse[r] = sum > 0.0f ? 1.0f / sum : 0.0f;
        some[r] = sum > 0.0f ? 1.0f : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 16; i++) {
        float x[4];
        add_four(x, results + i * 2048, product + 4 * i, last);
        const float2 m = __ldg(mean + 4 * i);
        const float2 c = __ldg(channel + 4 * i);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = first_row + r * 8;
            if (row < p.queries) {
                uint *at = (uint *)(p.out + (head * p.queries + row) * HEAD_DIM) + lane % 4;
                at[4 * i] = pack(fmaf(x[2 * r] * inverse[r], c.x, m.x * some[r]),
                                 fmaf(x[2 * r + 1] * inverse[r], c.y, m.y * some[r]));
            }
        }
    }
}

// Block x is the query tile, y the head, z the batch entry.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention_fp8(const __grid_constant__ Parameters p) {
    extern __shared__ __align__(1024) char memory[];
    const uint shared = (uint)__cvta_generic_to_shared(memory);
    const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
    const int first_query = blockIdx.x * (ROWS * WARPGROUPS);
    const long long head = (long long)blockIdx.z * gridDim.y + blockIdx.y;
    const bool produces = warpgroup == WARPGROUPS;
    // A producer has a warp for each ring.
    const int of_ring = RINGS == 1 ? 0
                        : produces ? __shfl_sync(0xffffffff, threadIdx.x / 32 % 4, 0)
                                   : warpgroup;
    const uint ring = shared + RINGS_AT + of_ring * RING_BYTES;
    const uint barriers = shared + RING_BARRIERS_AT + of_ring * RING_BARRIER_BYTES;
    const uint notes = shared + NOTES_AT + of_ring * STAGES * NOTE_BYTES;
    const int *list = nullptr;
#if SPARSE
    const int row = (first_query + of_ring * ROWS) / p.block_q;
    int units = 0;
    if (of_ring < RINGS && first_query + of_ring * ROWS < p.queries) {
        list = p.indices + blockIdx.z * p.indices_strides[0] + blockIdx.y * p.indices_strides[1] +
               row * p.indices_strides[2];
        units = p.counts[blockIdx.z * p.counts_strides[0] + blockIdx.y * p.counts_strides[1] +
                         row * p.counts_strides[2]] *
                (p.block_k / UNIT);
    }
    const int steps = (units + UNITS - 1) / UNITS;
#else
    const int units = (p.keys + UNIT - 1) / UNIT;
    const int steps = (p.keys + KEYS - 1) / KEYS;
#endif

    if (threadIdx.x == 0) {
        if (shared % 1024 != 0) {
            __trap();
        }
        init_barrier(shared + Q_FULL, 1);
        for (int of = 0; of < RINGS; of++) {
            const uint at = shared + RING_BARRIERS_AT + of * RING_BARRIER_BYTES;
            for (int i = 0; i < STAGES; i++) {
                init_barrier(at + K_FULL + 8 * i, 1);
                init_barrier(at + V_FULL + 8 * i, 1);
                init_barrier(at + K_EMPTY + 8 * i, READERS);
                init_barrier(at + V_EMPTY + 8 * i, READERS);
            }
        }
        asm volatile("fence.mbarrier_init.release.cluster;\n fence.proxy.async.shared::cta;" :::"memory");
    }
    __syncthreads();

    if (produces) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
        if (threadIdx.x % 32 == 0 && threadIdx.x / 32 % 4 < RINGS) {
            if (threadIdx.x == WARPGROUPS * 128) {
                expect_bytes(shared + Q_FULL, WARPGROUPS * Q_BYTES);
                copy(shared + Q_AT, p.q + head * p.q_units * UNIT_BYTES + (long long)blockIdx.x * (WARPGROUPS * Q_BYTES),
                     WARPGROUPS * Q_BYTES, shared + Q_FULL);
            }
            if (steps > 0) {
                produce(p, list, shared, ring, barriers, notes, head, steps, units);
            }
        }
        __syncwarp();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
        consume(p, shared, ring, barriers, notes, first_query, head, steps, warpgroup);
    }
}
