"""A UMT5-XXL encoder with random weights in PyTorch: the counterpart of `cargo xtask bench text`."""

import argparse
import json
import statistics
import time

import torch
from transformers import UMT5Config, UMT5EncoderModel

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tokens", type=int, default=512)
parser.add_argument("--depth", type=int, default=24)
parser.add_argument("--repeats", type=int, default=5)
args = parser.parse_args()

config = UMT5Config(
    vocab_size=256_384,
    d_model=4096,
    d_kv=64,
    d_ff=10_240,
    num_layers=args.depth,
    num_heads=64,
    feed_forward_proj="gated-gelu",
)
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda"):
    model = UMT5EncoderModel(config).eval()
    ids = (torch.arange(args.tokens) * 997 % 256_000).unsqueeze(0)
    mask = (torch.arange(args.tokens) < args.tokens // 4).long().unsqueeze(0)
times = []
with torch.inference_mode():
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        model(input_ids=ids, attention_mask=mask)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
row = {
    "operation": "text encode",
    "framework": "pytorch",
    "tokens": args.tokens,
    "depth": args.depth,
    "first_milliseconds": times[0],
    "milliseconds": statistics.median(times[1:]),
    "allocated_bytes": torch.cuda.max_memory_allocated(),
}
print(json.dumps(row))
