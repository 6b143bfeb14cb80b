"""Writes tests/golden/packed.safetensors: packed weights of every kind, and what other programs make of them.

Not part of the gate. In an environment with numpy, safetensors, gguf and ml_dtypes (whose fp8 is PyTorch's):

    python tests/golden/write_packed.py [libq4k.so]

For each kind `<kind>.bytes` and `<kind>.values`, their numbers in f32. `numbers` [4, 256] and what they are
packed to: `to.<how>`, with `to.<how>.scale` where scales lie beside. `to.q4_k` is of ggml's reference, compiled
without contraction to a library that exports `quantize_q4_K(float *, uint8_t *, int64_t)`; it is kept from the
file where no library is given.
"""

import ctypes
import os
import sys

import gguf
import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "packed.safetensors")
RNG = np.random.default_rng(27)
# Where the halves of a block are that scale it: random ones would be infinite now and then.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
OUT = {}

for name, places in HALVES.items():
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    count = 3 if elements == 256 else 8
    blocks = RNG.integers(0, 256, (count, size), dtype=np.uint8)
    for at in places:
        halves = (RNG.standard_normal((count, 1)) * 0.02).astype(np.float16)
        # One without a leading one, and zero.
        halves[0], halves[1] = 3.1e-6, 0.0
        blocks[:, at : at + 2] = halves.view(np.uint8)
    OUT[f"{name.lower()}.bytes"] = blocks.reshape(-1)
    OUT[f"{name.lower()}.values"] = gguf.dequantize(blocks, kind).astype(np.float32).reshape(-1)

for name, dtype in (("fp8e4m3", ml_dtypes.float8_e4m3fn), ("fp8e5m2", ml_dtypes.float8_e5m2)):
    patterns = np.arange(256, dtype=np.uint8)
    values = patterns.view(dtype).astype(np.float32)
    patterns = np.where(np.isfinite(values), patterns, 0).astype(np.uint8)
    OUT[f"{name}.bytes"] = patterns
    OUT[f"{name}.values"] = patterns.view(dtype).astype(np.float32)
OUT["int8.bytes"] = np.arange(256, dtype=np.uint8)
OUT["int8.values"] = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)

numbers = (RNG.standard_normal((4, 256)) * np.array([[0.02], [1.5], [3e-4], [0.4]])).astype(np.float32)
numbers[3, :64] = 0.0
numbers[3, 64:96] = 0.25
numbers[3, 96:128] = -0.5
OUT["numbers"] = numbers


def scaled(largest, rows):
    scale = np.abs(numbers).max(axis=1, keepdims=True) if rows else np.abs(numbers).max().reshape(1, 1)
    return (scale / np.float32(largest)).astype(np.float32)


for how, rows in (("fp8", False), ("fp8rows", True)):
    scale = scaled(448, rows)
    OUT[f"to.{how}"] = np.clip(numbers / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8).reshape(-1)
    OUT[f"to.{how}.scale"] = scale.reshape(-1)
scale = scaled(127, True)
OUT["to.int8"] = np.clip(np.rint(numbers / scale), -127, 127).astype(np.int8).view(np.uint8).reshape(-1)
OUT["to.int8.scale"] = scale.reshape(-1)
for name in ("Q8_0", "Q4_0"):
    OUT[f"to.{name.lower()}"] = gguf.quantize(numbers, gguf.GGMLQuantizationType[name]).reshape(-1)
if len(sys.argv) > 1:
    packed = np.zeros(numbers.size // 256 * 144, dtype=np.uint8)
    library = ctypes.CDLL(os.path.abspath(sys.argv[1]))
    pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
    library.quantize_q4_K(pointer(numbers), pointer(packed), ctypes.c_int64(numbers.size))
    OUT["to.q4_k"] = packed
else:
    OUT["to.q4_k"] = load_file(PATH)["to.q4_k"]

save_file({key: np.ascontiguousarray(value) for key, value in OUT.items()}, PATH)
