"""PyTorch's scaled_dot_product_attention at the sizes of `cargo xtask bench attention`: bf16, 32 heads of 128.

Prints the median of five calls after two that are not counted, timed with events. The backward pass is
counted as 2.5 times the forward's operations, as there.
"""

import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

HEADS, HEAD_DIM, TOKENS = 32, 128, 37_440


def measure(call):
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[2:])


def report(name, operations, milliseconds):
    print(f"{name}: {milliseconds:.2f} ms, {operations / milliseconds / 1e9:.0f} TFLOP/s", flush=True)


def main():
    torch.manual_seed(0)
    q, k, v, d_out = (
        torch.randn(1, HEADS, TOKENS, HEAD_DIM, device="cuda", dtype=torch.bfloat16) for _ in range(4)
    )
    operations = 4 * TOKENS**2 * HEADS * HEAD_DIM
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(backend), torch.no_grad():
            report(f"PyTorch {backend.name} forward", operations, measure(lambda: scaled_dot_product_attention(q, k, v)))
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        with sdpa_kernel(backend):
            out = scaled_dot_product_attention(*leaves)
            time = measure(lambda: torch.autograd.grad(out, leaves, d_out, retain_graph=True))
        report(f"PyTorch {backend.name} backward", 2.5 * operations, time)


if __name__ == "__main__":
    print(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {torch.cuda.get_device_name()}")
    main()
