// Two numbers of 16 bits in a word; put in front of each kernel when it is compiled.
//
// Macros read here:
//   HALF     0: bf16, 1: f16

using uint = unsigned int;

#define INLINE __device__ __forceinline__

#if HALF
#define TYPE "f16"
#else
#define TYPE "bf16"
#endif

// The number at the lower address of a pair.
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

// The other one.
INLINE float high_half(uint pair) {
#if HALF
    return low_half(pair >> 16);
#else
    return __uint_as_float(pair & 0xffff0000);
#endif
}

// Two numbers as a pair, each rounded to the nearest, `low` at the lower address.
INLINE uint pack(float low, float high) {
    uint pair;
    asm("cvt.rn." TYPE "x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

