"""Linear layers of the transformer in plain PyTorch: the counterpart of `cargo xtask bench linear`.

Prints one JSON object per shape: milliseconds (median over CUDA events) and TFLOP/s. Numbers are drawn in
float32: those that torch draws in bfloat16 are multiples of 1/256, whose products take less power, and
the card's clock follows its power.
"""

import argparse
import json

import torch
import torch.nn.functional as F

# Fused qkv; attention output; feed-forward in and out.
SHAPES = [(4096, 12288), (4096, 4096), (4096, 11008), (11008, 4096)]


def median_ms(run, repeats):
    """Median time of one call of `run`, in milliseconds."""
    for _ in range(5):
        run()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize()
    times = sorted(a.elapsed_time(b) for a, b in zip(marks, marks[1:]))
    return times[repeats // 2]


def uniform(*shape):
    """Numbers between -1 and 1."""
    return (torch.rand(*shape, device="cuda") * 2 - 1).to(torch.bfloat16)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=37440)
    parser.add_argument("--repeats", type=int, default=50)
    args = parser.parse_args()
    for inner, out in SHAPES:
        x, weight, bias = uniform(args.rows, inner), uniform(out, inner), uniform(out)
        for name, b in (("bias", bias), ("plain", None)):
            ms = median_ms(lambda: F.linear(x, weight, b), args.repeats)
            row = {
                "engine": f"torch {torch.__version__}",
                "rows": args.rows,
                "in": inner,
                "out": out,
                "kind": name,
                "ms": round(ms, 4),
                "tflops": round(2 * args.rows * inner * out / ms / 1e9, 1),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
