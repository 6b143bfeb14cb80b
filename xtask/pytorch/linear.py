"""Linear layers of the transformer in plain PyTorch: the counterpart of `cargo xtask bench linear`.

Prints one JSON object per shape: milliseconds (median over CUDA events) and TFLOP/s; with `--products fp8`
those of products in fp8 and of what rounds their input, which is compiled. Numbers are drawn in
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


def quantized(x):
    """Rows of `x` in e4m3 and what they are to be multiplied by, `[rows, 1]`."""
    scale = (x.abs().amax(dim=1, keepdim=True).float() / 448).clamp(min=1e-30)
    return (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def relative_error(found, expected):
    """The norm of the difference over that of what is expected."""
    found, expected = found.float(), expected.float()
    return ((found - expected).norm() / expected.norm()).item()


def fp8(args):
    """Products in fp8 with scales of rows and columns, with sums in f32 and faster ones, and the rounding."""
    rounded = torch.compile(quantized)
    for inner, out in SHAPES:
        x, weight = uniform(args.rows, inner), uniform(out, inner)
        (a, a_scale), (b, b_scale) = quantized(x), quantized(weight)
        b, b_scale = b.t(), b_scale.t()
        moved = args.rows * (3 * inner + 4)
        rounding_ms = median_ms(lambda: rounded(x), args.repeats)
        expected = F.linear(x, weight)
        for fast in (False, True):

            def product():
                return torch._scaled_mm(
                    a, b, a_scale, b_scale, out_dtype=torch.bfloat16, use_fast_accum=fast
                )

            ms = median_ms(product, args.repeats)
            row = {
                "engine": f"torch {torch.__version__}",
                "rows": args.rows,
                "in": inner,
                "out": out,
                "kind": "fp8 products, fast sums" if fast else "fp8 products",
                "product_ms": round(ms, 4),
                "product_tflops": round(2 * args.rows * inner * out / ms / 1e9, 1),
                "quantizing_ms": round(rounding_ms, 4),
                "quantizing_gb_per_s": round(moved / rounding_ms / 1e6),
                "ms": round(ms + rounding_ms, 4),
                "relative_error": relative_error(product(), expected),
            }
            print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=37440)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--products", choices=["dense", "fp8"], default="dense")
    args = parser.parse_args()
    if args.products == "fp8":
        fp8(args)
        return
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
