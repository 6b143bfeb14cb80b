// What the attention kernels for Hopper (sm_90a) share; put in front of each, behind halves.cuh, when it is
// compiled.
//
// Macros read here:
//   HALF     0: bf16, 1: f16
//   STAGES   tiles in each ring
//   CLUSTER  blocks that share their tiles

using ulong = unsigned long long;

constexpr int HEAD_DIM = 128;

// With 128-byte swizzling a tile of n rows is two halves of n rows of 64 elements (128 bytes).
constexpr uint ROW_BYTES = 128;

constexpr float LOG2_E = 1.4426950408889634f;

// CUtensorMap of the driver API.
struct alignas(64) TensorMap {
    char opaque[128];
};

// ---- Barriers and copies ----------------------------------------------------------------------

INLINE void init_barrier(uint barrier, uint arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

INLINE void expect_bytes(uint barrier, uint bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

INLINE bool is_complete(uint barrier, uint parity) {
    uint done;
    asm volatile(
        "{\n .reg .pred done;\n"
        " mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        " selp.u32 %0, 1, 0, done;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done != 0;
}

INLINE void wait(uint barrier, uint parity) {
    while (!is_complete(barrier, parity)) {
    }
}

// Tells the producers of the cluster that this warp has read a tile.
INLINE void release(uint barrier, int lane) {
    __syncwarp();
#if CLUSTER == 1
    if (lane == 0) {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
    }
#else
    if (lane < CLUSTER) {
        asm volatile(
            "{\n .reg .b32 remote;\n"
            " mapa.shared::cluster.u32 remote, %0, %1;\n"
            " mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(barrier),
            "r"(lane)
            : "memory");
    }
#endif
}

INLINE void sync_cluster() {
#if CLUSTER > 1
    asm volatile("barrier.cluster.arrive.release;\n barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

// Copies a box of the tensor [B, H, N, 128] that starts at (batch, head, row, column); rows past the
// end become zeros.
INLINE void load(
    uint to, const TensorMap &map, uint barrier, int column, int row, int head, int batch) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
        "l"(&map), "r"(barrier), "r"(column), "r"(row), "r"(head), "r"(batch)
        : "memory");
}

#if CLUSTER > 1
// The same, to this place in all blocks of the cluster, each of which is told at its own barrier.
INLINE void load_for_all(
    uint to, const TensorMap &map, uint barrier, int column, int row, int head, int batch) {
    const unsigned short everyone = (1 << CLUSTER) - 1;
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(to),
        "l"(&map), "r"(barrier), "r"(column), "r"(row), "r"(head), "r"(batch), "h"(everyone)
        : "memory");
}
#endif

// ---- Matrix products --------------------------------------------------------------------------

// Describes a tile with 128-byte swizzling. Groups of 8 rows are 1024 bytes apart; `half` is the
// distance of the two halves, which only counts where a row runs along the result's columns.
INLINE ulong describe(uint address, uint half) {
    return (ulong)((address & 0x3ffff) >> 4) | (ulong)(half >> 4) << 16 | (ulong)(1024 >> 4) << 32 |
           (ulong)1 << 62;
}

INLINE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `LEFT` of the latest groups of products run.
template <int LEFT>
INLINE void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// Keeps the compiler from moving reads of `x` up to before this point: to it, products that still
// run look finished.
template <int N>
INLINE void settle(float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        asm volatile("" : "+f"(x[i])::"memory");
    }
}

// Makes the assembler compute `x` before what follows. It would start waiting for products at once,
// ahead of exponentials that are meant to run beside them; it keeps stores in place, though, so here
// is one that never happens: `x` is a sum of probabilities.
INLINE void compute_first(float x, uint scratch) {
    asm volatile(
        "{\n .reg .pred never;\n setp.lt.f32 never, %0, 0f00000000;\n"
        " @never st.shared.f32 [%1], %0;\n}" ::"f"(x),
        "r"(scratch)
        : "memory");
}

// Operands 0 to 31 and so on, and the arrays they name.
#define R8(a, b, c, d, e, f, g, h) "%" #a ",%" #b ",%" #c ",%" #d ",%" #e ",%" #f ",%" #g ",%" #h
#define R32                                                                             \
    R8(0, 1, 2, 3, 4, 5, 6, 7)                                                          \
    "," R8(8, 9, 10, 11, 12, 13, 14, 15) "," R8(16, 17, 18, 19, 20, 21, 22, 23) "," R8( \
        24, 25, 26, 27, 28, 29, 30, 31)
#define R40 R32 "," R8(32, 33, 34, 35, 36, 37, 38, 39)
#define R48 R40 "," R8(40, 41, 42, 43, 44, 45, 46, 47)
#define R56 R48 "," R8(48, 49, 50, 51, 52, 53, 54, 55)
#define R64 R56 "," R8(56, 57, 58, 59, 60, 61, 62, 63)
#define R80 R64 "," R8(64, 65, 66, 67, 68, 69, 70, 71) "," R8(72, 73, 74, 75, 76, 77, 78, 79)
#define R88 R80 "," R8(80, 81, 82, 83, 84, 85, 86, 87)
#define F8(x, i)                                                                               \
    "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3]), "+f"(x[i + 4]), "+f"(x[i + 5]), \
        "+f"(x[i + 6]), "+f"(x[i + 7])
#define F32(x, i) F8(x, i), F8(x, i + 8), F8(x, i + 16), F8(x, i + 24)
#define F32_(x) F32(x, 0)
#define F40(x) F32(x, 0), F8(x, 32)
#define F48(x) F40(x), F8(x, 40)
#define F56(x) F48(x), F8(x, 48)
#define F64(x) F32(x, 0), F32(x, 32)
#define F80(x) F64(x), F8(x, 64), F8(x, 72)
#define F88(x) F80(x), F8(x, 80)

// acc[64, n] (+)= a[64, 16] · b[16, n], with `a` in shared memory or in registers, `b` in shared
// memory; `flip` says that rows of `b` run along n. `more` is 0 if acc starts at zero.
#define PRODUCT(n, acc, a, b, more, flip)                                                    \
    "{\n .reg .pred more;\n setp.ne.b32 more, " more ", 0;\n"                                \
    " wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." TYPE "." TYPE " {" acc "}, " a ", " b \
    ", more, 1, 1, " flip ";\n}"

// Both operands in shared memory, rows along the summed dimension; `acc` tells the width.
#define SHARED_PRODUCT(n, r, f, a0, a1, a2)                                         \
    INLINE void multiply(float (&acc)[n / 2], ulong a, ulong b, int more) {         \
        asm volatile(PRODUCT(n, r, "%" #a0, "%" #a1, "%" #a2, "0, 0")               \
                     : f(acc)                                                       \
                     : "l"(a), "l"(b), "r"(more));                                  \
    }
SHARED_PRODUCT(64, R32, F32_, 32, 33, 34)
SHARED_PRODUCT(80, R40, F40, 40, 41, 42)
SHARED_PRODUCT(96, R48, F48, 48, 49, 50)
SHARED_PRODUCT(112, R56, F56, 56, 57, 58)
SHARED_PRODUCT(128, R64, F64, 64, 65, 66)
SHARED_PRODUCT(160, R80, F80, 80, 81, 82)
SHARED_PRODUCT(176, R88, F88, 88, 89, 90)

// The same with `a` in registers.
#define REGISTER_PRODUCT(n, r, f, a0, a1, a2, a3, a4, a5)                                  \
    INLINE void multiply(float (&acc)[n / 2], const uint (&a)[4], ulong b, int more) {     \
        asm volatile(PRODUCT(n, r, "{%" #a0 ",%" #a1 ",%" #a2 ",%" #a3 "}", "%" #a4,       \
                             "%" #a5, "0")                                                 \
                     : f(acc)                                                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more));     \
    }
REGISTER_PRODUCT(64, R32, F32_, 32, 33, 34, 35, 36, 37)
REGISTER_PRODUCT(80, R40, F40, 40, 41, 42, 43, 44, 45)
REGISTER_PRODUCT(96, R48, F48, 48, 49, 50, 51, 52, 53)
REGISTER_PRODUCT(112, R56, F56, 56, 57, 58, 59, 60, 61)
REGISTER_PRODUCT(128, R64, F64, 64, 65, 66, 67, 68, 69)
REGISTER_PRODUCT(160, R80, F80, 80, 81, 82, 83, 84, 85)
REGISTER_PRODUCT(176, R88, F88, 88, 89, 90, 91, 92, 93)

// Adds the product of `a` in registers and 16 rows of a tile, which run along the 128 columns.
INLINE void multiply_rows(float (&acc)[64], const uint *a, ulong b) {
    asm volatile(PRODUCT(128, R64, "{%64,%65,%66,%67}", "%68", "%69", "1")
                 : F64(acc)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

// ---- Numbers -----------------------------------------------------------------------------------

INLINE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- Rings -------------------------------------------------------------------------------------

// A place in a ring, and the parity of its barriers there.
struct Slot {
    uint stage = 0;
    uint parity = 0;

    INLINE void next() {
        stage++;
        if (stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};
