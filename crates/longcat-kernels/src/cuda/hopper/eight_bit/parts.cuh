// What attention in eight bits is made of: where things lie, copies, products, softmax. Put behind common.cuh
// and in front of attention.cu, which explains the macros.

// Query rows of a warpgroup, and keys of a tile.
constexpr int ROWS = 64;
constexpr int UNIT = 32;
constexpr uint Q_BYTES = ROWS * HEAD_DIM;
constexpr uint UNIT_BYTES = UNIT * HEAD_DIM;
constexpr int UNITS = KEYS / UNIT;
constexpr int RINGS = SPARSE ? WARPGROUPS : 1;
constexpr int THREADS = 128 * (WARPGROUPS + 1);
// Warps that read a tile.
constexpr uint READERS = 4 * WARPGROUPS / RINGS;

// What the producer tells of a step: scale and number of real keys of each tile.
constexpr uint NOTE_BYTES = 8 * UNITS;
constexpr uint TILE_BYTES = UNITS * UNIT_BYTES;

// Shared memory, in bytes from its start. The tiles need multiples of 1024.
constexpr uint RING_BYTES = 2 * STAGES * TILE_BYTES;
constexpr uint Q_AT = 0;
// Results in f32.
constexpr uint RESULTS_AT = WARPGROUPS * Q_BYTES;
constexpr uint RESULT_BYTES = 4 * ROWS * HEAD_DIM;
constexpr uint RINGS_AT = RESULTS_AT + WARPGROUPS * RESULT_BYTES;
constexpr uint BARRIERS_AT = RINGS_AT + RINGS * RING_BYTES;
constexpr uint Q_FULL = BARRIERS_AT;
// Of each ring, from its start.
constexpr uint K_AT = 0;
constexpr uint V_AT = STAGES * TILE_BYTES;
constexpr uint RING_BARRIERS_AT = Q_FULL + 8;
constexpr uint K_FULL = 0;
constexpr uint K_EMPTY = K_FULL + 8 * STAGES;
constexpr uint V_FULL = K_EMPTY + 8 * STAGES;
constexpr uint V_EMPTY = V_FULL + 8 * STAGES;
constexpr uint RING_BARRIER_BYTES = V_EMPTY + 8 * STAGES;
constexpr uint NOTES_AT = RING_BARRIERS_AT + RINGS * RING_BARRIER_BYTES;

// The bits of 1.5 * 2^23: a score, below 2^21, added to them is added to the number.
constexpr uint MAGIC_BITS = 0x4b400000;
constexpr float MAGIC = 12582912.0f;
// Probabilities relative to a row's reference are multiplied by this power of two; scores may exceed the
// reference by the other before it is raised. e4m3 ends at 2^8.8.
constexpr float TOP_EXPONENT = 6.0f;
constexpr float LAZY_EXPONENT = 2.8f;
// Maximum of a row that has seen no key; finite, so that differences are numbers.
constexpr float NO_MAXIMUM = -1.0e30f;

struct Parameters {
    // Tiles, [B, H, units, UNIT_BYTES].
    const char *q;
    const char *k;
    const char *v;
    // [B, H, q_units * UNIT] and [B, H, k_units].
    const float *q_scales;
    const float *k_scales;
    // [B, H, 3, 128].
    const float *tables;
    // [B, H, Nq, 128], contiguous.
    ushort1 *out;
    // [B, H, Nq / block_q, width], [B, H, Nq / block_q] and [Nk / block_k]; read if SPARSE.
    const int *indices;
    const int *counts;
    const int *key_valid;
    // In elements, of the first three dimensions.
    long long indices_strides[3];
    long long counts_strides[3];
    int queries;
    int keys;
    int q_units;
    int k_units;
    // Multiples of 64; read if SPARSE.
    int block_q;
    int block_k;
};

// ---- Copies -----------------------------------------------------------------------------------

INLINE void copy(uint to, const char *from, uint bytes, uint barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
}

// The tiles of one step.
struct Step {
    int units[UNITS];
    int valid[UNITS];
    float scales[UNITS];
};

INLINE void load_step(uint to, const char *from, const Step &step, uint barrier) {
    expect_bytes(barrier, TILE_BYTES);
#if SPARSE
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        copy(to + u * UNIT_BYTES, from + (long long)step.units[u] * UNIT_BYTES, UNIT_BYTES, barrier);
    }
#else
    copy(to, from + (long long)step.units[0] * UNIT_BYTES, TILE_BYTES, barrier);
#endif
}

// ---- Products ---------------------------------------------------------------------------------

// A tile of values has rows of 32 bytes, swizzled over that; groups of 8 rows are 256 bytes apart.
INLINE ulong describe_values(uint address) {
    return (ulong)((address & 0x3ffff) >> 4) | (ulong)1 << 16 | (ulong)(256 >> 4) << 32 |
           (ulong)3 << 62;
}

#define U8(x, i)                                                                               \
    "+r"(x[i]), "+r"(x[i + 1]), "+r"(x[i + 2]), "+r"(x[i + 3]), "+r"(x[i + 4]), "+r"(x[i + 5]), \
        "+r"(x[i + 6]), "+r"(x[i + 7])
#define U32(x, i) U8(x, i), U8(x, i + 8), U8(x, i + 16), U8(x, i + 24)
#define U48(x) U32(x, 0), U8(x, 32), U8(x, 40)
#define U64(x) U32(x, 0), U32(x, 32)

// acc[64, n] += a[64, 32] · b[32, n] in integers, both in shared memory, rows along the sum.
#define INTEGER_PRODUCT(n, r, u, a0, a1)                                                     \
    INLINE void multiply_integers(uint (&acc)[n / 2], ulong a, ulong b) {                    \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k32.s32.s8.s8 {" r "}, %" #a0   \
                     ", %" #a1 ", 1;"                                                        \
                     : u(acc)                                                                \
                     : "l"(a), "l"(b));                                                      \
    }
INTEGER_PRODUCT(96, R48, U48, 48, 49)
INTEGER_PRODUCT(128, R64, U64, 64, 65)

// acc[64, 128] (+)= a[64, 32] · b[32, 128] in e4m3, `a` in registers; `more` is 0 if acc starts at
// zero.
INLINE void multiply_values(float (&acc)[64], const uint *a, ulong b, int more) {
    asm volatile(
        "{\n .reg .pred more;\n setp.ne.b32 more, %69, 0;\n"
        " wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" R64
        "}, {%64,%65,%66,%67}, %68, more, 1, 1;\n}"
        : F64(acc)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more));
}

template <int N>
INLINE void settle_integers(uint (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        asm volatile("" : "+r"(x[i])::"memory");
    }
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
    // Of scores, with that of softmax, in powers of two.
    float scale[2];
    // Of scaled scores, which probabilities of the window are relative to; and this lane's share of their
    // sum.
    float reference[2];
    float sum[2];
    // The same of the results of all windows before.
    float maximum[2];
    float total[2];
};

INLINE void mask(uint (&s)[KEYS / 2], const int (&valid)[UNITS], int lane) {
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        const int column = i % 16 / 4 * 8 + lane % 4 * 2 + i % 2;
        if (column >= valid[i / 16]) {
            s[i] = 0xff800000;
        }
    }
}

// Of 16 columns of a row, the four numbers of a lane are a register of the next product's operand.
INLINE void pack_all(uint (&p)[KEYS / 8], const uint (&s)[KEYS / 2]) {
#pragma unroll
    for (int i = 0; i < KEYS / 8; i++) {
        const uint *x = s + i / 2 * 8 + i % 2 * 2;
        asm("{\n .reg .b16 low, high;\n"
            " cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
            " cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
            " mov.b32 %0, {low, high};\n}"
            : "=r"(p[i])
            : "f"(__uint_as_float(x[0])), "f"(__uint_as_float(x[1])), "f"(__uint_as_float(x[4])),
              "f"(__uint_as_float(x[5])));
    }
}

// This lane's largest scores of one step, scaled, and what scales them.
INLINE void survey(
    float (&high)[2], float (&scale)[2][UNITS], const uint (&s)[KEYS / 2],
    const float (&scales)[UNITS], const Rows &rows) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        high[r] = NO_MAXIMUM;
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            float even = __uint_as_float(s[16 * u + 2 * r]);
            float odd = __uint_as_float(s[16 * u + 2 * r + 1]);
#pragma unroll
            for (int i = 4; i < 16; i += 4) {
                even = fmaxf(even, __uint_as_float(s[16 * u + i + 2 * r]));
                odd = fmaxf(odd, __uint_as_float(s[16 * u + i + 2 * r + 1]));
            }
            scale[r][u] = rows.scale[r] * scales[u];
            high[r] = fmaxf(high[r], (fmaxf(even, odd) - MAGIC) * scale[r][u]);
        }
    }
}

// Turns scores into probabilities relative to the references.
INLINE void exponentiate(uint (&s)[KEYS / 2], const float (&scale)[2][UNITS], Rows &rows) {
    float sum[2][2] = {{rows.sum[0], 0.0f}, {rows.sum[1], 0.0f}};
    float shift[2][UNITS];
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            shift[r][u] = fmaf(-MAGIC, scale[r][u], TOP_EXPONENT - rows.reference[r]);
        }
    }
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        const int r = i / 2 % 2;
        const float power = fmaf(__uint_as_float(s[i]), scale[r][i / 16], shift[r][i / 16]);
        const float x = exp2_fast(power);
        sum[r][i % 2] += x;
        s[i] = __float_as_uint(x);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        rows.sum[r] = sum[r][0] + sum[r][1];
    }
}

// What results are to be multiplied by, and the products of a window, before these are added.
struct Weights {
    float before[2];
    float added[2];
};

// Ends a window whose probabilities were relative to the references.
INLINE Weights close_window(Rows &rows) {
    Weights w;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float maximum = fmaxf(rows.maximum[r], rows.reference[r]);
        w.before[r] = exp2_fast(rows.maximum[r] - maximum);
        w.added[r] = exp2_fast(rows.reference[r] - maximum);
        rows.maximum[r] = maximum;
        rows.total[r] = fmaf(rows.sum[r], w.added[r], rows.total[r] * w.before[r]);
        rows.sum[r] = 0.0f;
    }
    return w;
}
