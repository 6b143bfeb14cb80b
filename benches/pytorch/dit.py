"""The LongCat transformer in plain PyTorch: the counterpart of `cargo xtask bench dit --preset small`.

Written for this comparison from the published architecture: modulated self-attention with 3D rotary
embedding, cross-attention to text, modulated SwiGLU. Prints the median of the passes in milliseconds.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class HeadNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x.float(), x.shape[-1:], self.weight, 1e-6).to(x.dtype)


def rotate(x, cos, sin):
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def rope(grid, width):
    spatial = 2 * (width // 6)
    parts = []
    for axis, dim in enumerate((width - 2 * spatial, spatial, spatial)):
        frequencies = 1 / 10000 ** (torch.arange(0, dim, 2) / dim)
        shape = [1, 1, 1, 1]
        shape[axis] = grid[axis]
        angles = torch.arange(grid[axis]).view(shape) * frequencies
        parts.append(angles.expand(*grid, -1))
    angles = torch.cat(parts, -1).flatten(0, 2)
    return angles.cos(), angles.sin()


class Block(nn.Module):
    def __init__(self, hidden, heads, embed):
        super().__init__()
        self.heads = heads
        ffn = -(-(8 * hidden // 3) // 256) * 256
        self.adaln = nn.Linear(embed, 6 * hidden)
        self.qkv, self.proj = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.q, self.kv = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.cross = nn.Linear(hidden, hidden)
        self.norms = nn.ModuleList(HeadNorm(hidden // heads) for _ in range(4))
        self.norm = nn.LayerNorm(hidden, 1e-6)
        self.w1, self.w3 = nn.Linear(hidden, ffn, False), nn.Linear(hidden, ffn, False)
        self.w2 = nn.Linear(ffn, hidden, False)

    def split(self, x, count):
        return x.unflatten(-1, (count, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x, text, time_embedding, tables):
        batch, tokens, hidden = x.shape
        frames = time_embedding.shape[1]
        shape = (batch, frames, tokens // frames, hidden)
        m = self.adaln(F.silu(time_embedding)).unsqueeze(2).chunk(6, -1)

        def modulate(x, shift, scale):
            x = F.layer_norm(x.view(shape), (hidden,), eps=1e-6)
            return (x * (1 + scale) + shift).view(x.shape[0], tokens, hidden)

        q, k, v = self.split(self.qkv(modulate(x, m[0], m[1])), 3)
        q, k = rotate(self.norms[0](q), *tables), rotate(self.norms[1](k), *tables)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + (m[2] * self.proj(out).view(shape)).view(x.shape)
        (q,) = self.split(self.q(self.norm(x)), 1)
        k, v = self.split(self.kv(text), 2)
        out = F.scaled_dot_product_attention(self.norms[2](q), self.norms[3](k), v)
        x = x + self.cross(out.transpose(1, 2).flatten(2))
        y = modulate(x, m[3], m[4])
        y = self.w2(F.silu(self.w1(y)) * self.w3(y))
        return x + (m[5] * y.view(shape)).view(x.shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    hidden, heads, embed, grid = 512, 8, 128, (8, 16, 16)
    blocks = nn.ModuleList(Block(hidden, heads, embed) for _ in range(args.depth))
    patch, head = nn.Linear(64, hidden), nn.Linear(hidden, 64)
    tables = rope(grid, hidden // heads)
    patches, text = torch.randn(1, 2048, 64), torch.randn(1, 256, hidden)
    time_embedding = torch.randn(1, grid[0], embed)
    times = []
    with torch.inference_mode():
        for _ in range(args.repeats + 1):
            start = time.perf_counter()
            x = patch(patches)
            for block in blocks:
                x = block(x, text, time_embedding, tables)
            head(F.layer_norm(x, (hidden,), eps=1e-6))
            times.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"network": "dit", "framework": "pytorch", "milliseconds": statistics.median(times[1:])}))


if __name__ == "__main__":
    main()
