"""A forward pass of the transformer in PyTorch: the counterpart of `cargo xtask bench dit`."""

import argparse
import json
import statistics
import time

import torch
from network import PRESETS, Transformer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--preset", choices=PRESETS, default="small")
parser.add_argument("--depth", type=int, default=4)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--device", default="cpu")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--lora-rank", type=int, default=0)
parser.add_argument("--compile", action="store_true")
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
cuda = args.device.startswith("cuda")
dtype = torch.bfloat16 if cuda else torch.float32
torch.set_default_dtype(dtype)
with torch.device(args.device):
    model = Transformer(args.preset, args.depth, args.device)
    if args.lora_rank:
        for block in model.blocks:
            block.adapt(args.lora_rank, dtype)
if args.compile:
    for block in model.blocks:
        block.compile()
inputs = model.inputs(args.device, dtype)
inputs = (*inputs[:2], inputs[2].float())
times = []
with torch.inference_mode():
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        model(*inputs)
        if cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
median = statistics.median(times[1:])
taken = None
if cuda:
    free, total = torch.cuda.mem_get_info()
    taken = total - free
print(
    json.dumps(
        {
            "network": "dit",
            "framework": "pytorch",
            "preset": args.preset,
            "compiled": args.compile,
            "depth": args.depth,
            "lora_rank": args.lora_rank,
            "first_milliseconds": times[0],
            "milliseconds": median,
            "milliseconds_per_block": median / args.depth,
            "memory_bytes": taken,
        }
    )
)
