"""The LongCat transformer in plain PyTorch, the counterpart of `cargo xtask bench`.

Written for these comparisons from the published architecture: modulated self-attention with 3D rotary
embedding, cross-attention to text, modulated SwiGLU; norms and modulation in fp32.
"""

import torch
import torch.nn.functional as F
from torch import nn

PRESETS = {  # hidden, heads, width of the time embedding, width of the text, token grid
    "small": (512, 8, 128, 512, (8, 16, 16)),
    "generate": (4096, 32, 512, 4096, (24, 30, 52)),
    "clip": (4096, 32, 512, 4096, (9, 30, 52)),
}


class HeadNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), 1e-6).to(x.dtype)


class Lora(nn.Module):
    """A linear layer with an adapter of n fused parts beside it."""

    def __init__(self, base, rank, parts, dtype):
        super().__init__()
        self.base, self.parts = base, parts
        device = base.weight.device
        down = torch.randn(parts * rank, base.in_features, device=device, dtype=dtype)
        self.down = nn.Parameter(down * base.in_features**-0.5)
        up = torch.zeros(parts, base.out_features // parts, rank, device=device, dtype=dtype)
        self.up = nn.Parameter(up)

    def forward(self, x):
        low = F.linear(x, self.down.to(x.dtype)).unflatten(-1, (self.parts, -1))
        out = torch.einsum("btpr,por->btpo", low, self.up.to(x.dtype)).flatten(-2)
        return self.base(x) + 0.5 * out


def rotate(x, cos, sin):
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2).to(x.dtype)


def rope(grid, width, device):
    spatial = 2 * (width // 6)
    parts = []
    for axis, dim in enumerate((width - 2 * spatial, spatial, spatial)):
        frequencies = 1 / 10000 ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
        shape = [1, 1, 1, 1]
        shape[axis] = grid[axis]
        angles = torch.arange(grid[axis], device=device, dtype=torch.float32).view(shape) * frequencies
        parts.append(angles.expand(*grid, -1))
    angles = torch.cat(parts, -1).flatten(0, 2)
    return angles.cos(), angles.sin()


class Block(nn.Module):
    def __init__(self, hidden, heads, embed):
        super().__init__()
        self.heads = heads
        ffn = -(-(8 * hidden // 3) // 256) * 256
        self.adaln = nn.Linear(embed, 6 * hidden, dtype=torch.float32)
        self.qkv, self.proj = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.q, self.kv = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.cross = nn.Linear(hidden, hidden)
        self.norms = nn.ModuleList(HeadNorm(hidden // heads) for _ in range(4))
        self.norm = nn.LayerNorm(hidden, 1e-6)
        self.w1, self.w3 = nn.Linear(hidden, ffn, False), nn.Linear(hidden, ffn, False)
        self.w2 = nn.Linear(ffn, hidden, False)

    def adapt(self, rank, dtype):
        """Adapters on the layers of the released `cfg_step_lora`."""
        for name, parts in (("qkv", 3), ("proj", 1), ("q", 1), ("kv", 2), ("w1", 1), ("w2", 1), ("w3", 1)):
            setattr(self, name, Lora(getattr(self, name), rank, parts, dtype))

    def split(self, x, count):
        return x.unflatten(-1, (count, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x, text, time_embedding, cos, sin):
        batch, tokens, hidden = x.shape
        frames = time_embedding.shape[1]
        shape = (batch, frames, tokens // frames, hidden)
        m = self.adaln(F.silu(time_embedding)).unsqueeze(2).chunk(6, -1)

        def modulate(x, shift, scale):
            y = F.layer_norm(x.float().view(shape), (hidden,), eps=1e-6)
            return (y * (1 + scale) + shift).view(x.shape).to(x.dtype)

        def add(x, y, gate):
            return (x.float() + (gate * y.float().view(shape)).view(x.shape)).to(x.dtype)

        q, k, v = self.split(self.qkv(modulate(x, m[0], m[1])), 3)
        q, k = rotate(self.norms[0](q), cos, sin), rotate(self.norms[1](k), cos, sin)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = add(x, self.proj(out), m[2])
        normed = F.layer_norm(
            x.float(), (hidden,), self.norm.weight.float(), self.norm.bias.float(), 1e-6
        ).to(x.dtype)
        (q,) = self.split(self.q(normed), 1)
        k, v = self.split(self.kv(text), 2)
        out = F.scaled_dot_product_attention(self.norms[2](q), self.norms[3](k), v)
        x = x + self.cross(out.transpose(1, 2).flatten(2))
        y = modulate(x, m[3], m[4])
        return add(x, self.w2(F.silu(self.w1(y)) * self.w3(y)), m[5])


class Transformer(nn.Module):
    def __init__(self, preset, depth, device):
        super().__init__()
        hidden, heads, self.embed, caption, self.grid = PRESETS[preset]
        self.caption = caption
        self.blocks = nn.ModuleList(Block(hidden, heads, self.embed) for _ in range(depth))
        self.patch, self.head = nn.Linear(64, hidden), nn.Linear(hidden, 64, dtype=torch.float32)
        self.text = nn.Linear(caption, hidden)
        self.tables = rope(self.grid, hidden // heads, device)

    def inputs(self, device, dtype):
        tokens = self.grid[0] * self.grid[1] * self.grid[2]
        return (
            torch.randn(1, tokens, 64, device=device, dtype=dtype),
            torch.randn(1, 256, self.caption, device=device, dtype=dtype),
            torch.randn(1, self.grid[0], self.embed, device=device),
        )

    def forward(self, patches, text, time_embedding, run=lambda block, *args: block(*args)):
        x, text = self.patch(patches), self.text(text)
        for block in self.blocks:
            x = run(block, x, text, time_embedding, *self.tables)
        return self.head(F.layer_norm(x.float(), x.shape[-1:], eps=1e-6))
