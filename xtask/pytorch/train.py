"""An optimiser step of a LoRA adapter with per-block checkpointing in PyTorch: the counterpart of
`cargo xtask bench train`."""

import argparse
import json
import statistics
import time

import torch
from network import PRESETS, Transformer
from torch.utils.checkpoint import checkpoint

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--preset", choices=PRESETS, default="clip")
parser.add_argument("--depth", type=int, default=8)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--lora-rank", type=int, default=64)
args = parser.parse_args()

device, dtype = "cuda", torch.bfloat16
torch.manual_seed(0)
torch.set_default_dtype(dtype)
with torch.device(device):
    model = Transformer(args.preset, args.depth, device)
    model.requires_grad_(False)
    for block in model.blocks:
        block.adapt(args.lora_rank, torch.float32)
factors = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(factors, lr=1e-4, weight_decay=0.01)
patches, text, time_embedding = model.inputs(device, dtype)
time_embedding = time_embedding.float()
target = torch.randn(*patches.shape, device=device, dtype=torch.float32)
times = []
for _ in range(args.repeats + 1):
    start = time.perf_counter()
    out = model(
        patches,
        text,
        time_embedding,
        lambda block, *inputs: checkpoint(block, *inputs, use_reentrant=False),
    )
    loss = (out - target).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    times.append((time.perf_counter() - start) * 1e3)
free, total = torch.cuda.mem_get_info()
print(
    json.dumps(
        {
            "network": "train",
            "framework": "pytorch",
            "preset": args.preset,
            "depth": args.depth,
            "lora_rank": args.lora_rank,
            "first_milliseconds": times[0],
            "milliseconds": statistics.median(times[1:]),
            "memory_bytes": total - free,
            "allocated_bytes": torch.cuda.max_memory_allocated(),
        }
    )
)
