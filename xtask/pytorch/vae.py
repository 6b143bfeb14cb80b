"""The Wan 2.1 VAE in plain PyTorch with random weights: the counterpart of `cargo xtask bench vae`.

Written for these comparisons from the published architecture: causal 3D convolutions that keep the last
frames of each layer between chunks, RMS norms over channels, one attention block in the middle.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

WIDTHS, DOWN_TIME, BLOCKS, LATENT = (1, 2, 4, 4), (False, True, True), 2, 16


class Causal(nn.Conv3d):
    """Sees only the past; `memory` holds the frames before the chunk."""

    def __init__(self, inner, out, kernel, stride=(1, 1, 1), space=None):
        super().__init__(inner, out, kernel, stride)
        self.past = kernel[0] - 1
        self.space = kernel[1] // 2 if space is None else space
        self.memory = None

    def forward(self, x):
        if self.past and self.stride[0] == 1:
            front = self.memory
            if front is None:
                front = x.new_zeros(*x.shape[:2], self.past, *x.shape[3:])
            x = torch.cat([front, x], 2)
            self.memory = x[:, :, -self.past :]
        return F.conv3d(F.pad(x, (self.space,) * 4), self.weight, self.bias, self.stride)


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width, 1, 1, 1))

    def forward(self, x):
        return F.normalize(x, dim=1) * x.shape[1] ** 0.5 * self.scale


class Residual(nn.Module):
    def __init__(self, inner, out):
        super().__init__()
        self.norm1, self.conv1 = Norm(inner), Causal(inner, out, (3, 3, 3))
        self.norm2, self.conv2 = Norm(out), Causal(out, out, (3, 3, 3))
        self.skip = nn.Identity() if inner == out else Causal(inner, out, (1, 1, 1))

    def forward(self, x):
        y = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.qkv, self.out = Norm(width), nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x):
        b, c, t, h, w = x.shape
        frames = self.norm(x).transpose(1, 2).reshape(b * t, c, h, w)
        q, k, v = self.qkv(frames).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2).reshape(b * t, c, h, w)
        return x + self.out(y).view(b, t, c, h, w).transpose(1, 2)


def middle(width):
    return [Residual(width, width), Attention(width), Residual(width, width)]


def by_frame(layer, x):
    b, c, t, h, w = x.shape
    y = layer(x.transpose(1, 2).reshape(b * t, c, h, w))
    return y.view(b, t, *y.shape[1:]).transpose(1, 2)


class Down(nn.Module):
    def __init__(self, width, in_time):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 2)
        self.time = nn.Conv3d(width, width, (3, 1, 1), (2, 1, 1)) if in_time else None
        self.memory = None

    def forward(self, x):
        x = by_frame(lambda y: self.conv(F.pad(y, (0, 1, 0, 1))), x)
        if self.time is None:
            return x
        last, self.memory = self.memory, x[:, :, -1:]
        return x if last is None else self.time(torch.cat([last, x], 2))


class Up(nn.Module):
    def __init__(self, width, in_time):
        super().__init__()
        self.conv = nn.Conv2d(width, width // 2, 3, padding=1)
        self.time = Causal(width, 2 * width, (3, 1, 1), space=0) if in_time else None
        self.first = True

    def forward(self, x):
        if self.time is not None:
            if not self.first:
                b, c, t, h, w = x.shape
                x = self.time(x).view(b, 2, c, t, h, w).permute(0, 2, 3, 1, 4, 5).reshape(b, c, 2 * t, h, w)
            self.first = False
        return by_frame(lambda y: self.conv(F.interpolate(y, scale_factor=2.0, mode="nearest-exact")), x)


class Encoder(nn.Module):
    def __init__(self, base):
        super().__init__()
        layers, width = [Causal(3, base, (3, 3, 3))], base
        for level, factor in enumerate(WIDTHS):
            for _ in range(BLOCKS):
                layers.append(Residual(width, base * factor))
                width = base * factor
            if level < len(DOWN_TIME):
                layers.append(Down(width, DOWN_TIME[level]))
        layers += middle(width) + [Norm(width), nn.SiLU(), Causal(width, 2 * LATENT, (3, 3, 3))]
        layers.append(Causal(2 * LATENT, 2 * LATENT, (1, 1, 1)))
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


class Decoder(nn.Module):
    def __init__(self, base):
        super().__init__()
        width = base * WIDTHS[-1]
        layers = [Causal(LATENT, LATENT, (1, 1, 1)), Causal(LATENT, width, (3, 3, 3))] + middle(width)
        for level, factor in enumerate(reversed(WIDTHS)):
            for _ in range(BLOCKS + 1):
                layers.append(Residual(width, base * factor))
                width = base * factor
            if level < len(DOWN_TIME):
                layers.append(Up(width, DOWN_TIME[-1 - level]))
                width //= 2
        layers += [Norm(width), nn.SiLU(), Causal(width, 3, (3, 3, 3))]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


def forget(model):
    for module in model.modules():
        if hasattr(module, "memory"):
            module.memory = None
        if isinstance(module, Up):
            module.first = True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--frames", type=int, default=93)
    parser.add_argument("--base", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.manual_seed(0)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    torch.set_default_dtype(dtype)
    torch.backends.cudnn.benchmark = True
    latent_frames = 1 + (args.frames - 1) // 4
    with torch.device(args.device):
        latents = torch.randn(1, LATENT, latent_frames, args.height // 8, args.width // 8)
        video = torch.rand(1, 3, args.frames, args.height, args.width) * 2 - 1

    def decode(model):
        return torch.cat([model(chunk) for chunk in latents.split(1, 2)], 2)

    def encode(model):
        chunks = [video[:, :, :1], *video[:, :, 1:].split(4, 2)]
        return torch.cat([model(chunk) for chunk in chunks], 2)

    for name, make, run in (("vae decode", Decoder, decode), ("vae encode", Encoder, encode)):
        with torch.device(args.device):
            model = make(args.base)
        times = []
        if args.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            for _ in range(args.repeats + 1):
                forget(model)
                start = time.perf_counter()
                out = run(model)
                if args.device == "cuda":
                    torch.cuda.synchronize()
                times.append((time.perf_counter() - start) * 1e3)
        row = {
            "operation": name,
            "framework": "pytorch",
            "shape": list(out.shape),
            "first_milliseconds": times[0],
            "milliseconds": statistics.median(times[1:]),
        }
        if args.device == "cuda":
            row["allocated_bytes"] = torch.cuda.max_memory_allocated()
        print(json.dumps(row), flush=True)
        del model, out


if __name__ == "__main__":
    main()
