"""Writes tests/golden/layouts: small weights in every layout and packed type that is read, and what they
unpack to by the `gguf` package and by PyTorch.

Not part of the gate. In an environment with torch, numpy, safetensors, gguf and sentencepiece:

    python tests/golden/write_layouts.py

`expected.json` has, for every file, the official name, shape and first 16 digits of the SHA-256 of every
tensor, unpacked to f32, little endian.
"""

import hashlib
import io
import json
import os

import gguf
import numpy as np
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "layouts")
TINY = os.path.join(HERE, "checkpoints", "tiny")
EXPECTED = {}
torch.manual_seed(26)
RNG = np.random.default_rng(26)


def digest(tensor):
    bytes_ = tensor.detach().to(torch.float32).contiguous().numpy().astype("<f4").tobytes()
    return hashlib.sha256(bytes_).hexdigest()[:16]


def expect(file, tensors):
    EXPECTED[file] = {k: {"shape": list(v.shape), "sha256": digest(v)} for k, v in sorted(tensors.items())}


def path(name):
    target = os.path.join(OUT, name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    return target


# A transformer: one block, hidden 32, two heads, feed-forward 256.
def transformer():
    h, ffn, heads, t, f, c = 32, 256, 2, 16, 32, 24
    d = h // heads
    shapes = {
        "x_embedder.proj.weight": (h, 16, 1, 2, 2), "x_embedder.proj.bias": (h,),
        "t_embedder.mlp.0.weight": (t, f), "t_embedder.mlp.0.bias": (t,),
        "t_embedder.mlp.2.weight": (t, t), "t_embedder.mlp.2.bias": (t,),
        "y_embedder.y_proj.0.weight": (h, c), "y_embedder.y_proj.0.bias": (h,),
        "y_embedder.y_proj.2.weight": (h, h), "y_embedder.y_proj.2.bias": (h,),
        "final_layer.adaLN_modulation.1.weight": (2 * h, t), "final_layer.adaLN_modulation.1.bias": (2 * h,),
        "final_layer.linear.weight": (64, h), "final_layer.linear.bias": (64,),
    }
    block = {
        "adaLN_modulation.1.weight": (6 * h, t), "adaLN_modulation.1.bias": (6 * h,),
        "attn.qkv.weight": (3 * h, h), "attn.qkv.bias": (3 * h,),
        "attn.proj.weight": (h, h), "attn.proj.bias": (h,),
        "attn.q_norm.weight": (d,), "attn.k_norm.weight": (d,),
        "pre_crs_attn_norm.weight": (h,), "pre_crs_attn_norm.bias": (h,),
        "cross_attn.q_linear.weight": (h, h), "cross_attn.q_linear.bias": (h,),
        "cross_attn.kv_linear.weight": (2 * h, h), "cross_attn.kv_linear.bias": (2 * h,),
        "cross_attn.proj.weight": (h, h), "cross_attn.proj.bias": (h,),
        "cross_attn.q_norm.weight": (d,), "cross_attn.k_norm.weight": (d,),
        "ffn.w1.weight": (ffn, h), "ffn.w2.weight": (h, ffn), "ffn.w3.weight": (ffn, h),
    }
    shapes.update({f"blocks.0.{k}": v for k, v in block.items()})
    tensors = {}
    for key, shape in shapes.items():
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 16
        tensors[key] = (torch.randn(shape) * fan_in ** -0.5 + (1.0 if "norm.weight" in key else 0.0)).bfloat16()
    return tensors


KIJAI = {
    "x_embedder.proj": "patch_embedding", "t_embedder.mlp.": "time_embedding.mlp.",
    "y_embedder.y_proj.": "text_embedding.", "adaLN_modulation.1": "modulation.1",
    "final_layer.linear": "head.head", "final_layer.": "head.", "pre_crs_attn_norm": "norm3",
    ".attn.proj": ".self_attn.o", ".attn.q_norm": ".self_attn.norm_q", ".attn.k_norm": ".self_attn.norm_k",
    "cross_attn.q_linear": "cross_attn.q", "cross_attn.proj": "cross_attn.o",
    "cross_attn.q_norm": "cross_attn.norm_q", "cross_attn.k_norm": "cross_attn.norm_k",
}


def kijai(key, value):
    """The keys and values of an official tensor under Kijai's names."""
    tensor = key.rsplit(".", 1)[1]
    for fused, parts in ((".attn.qkv.", ("q", "k", "v")), (".cross_attn.kv_linear.", ("k", "v"))):
        if fused in key:
            kind = "self_attn" if fused == ".attn.qkv." else "cross_attn"
            rows = value.chunk(len(parts))
            return [(f"blocks.0.{kind}.{p}.{tensor}", r.contiguous()) for p, r in zip(parts, rows)]
    for ours, theirs in KIJAI.items():
        key = key.replace(ours, theirs)
    return [(key, value)]


FASTVIDEO = {
    "x_embedder.": "patch_embed.", "t_embedder.mlp.0": "time_embedder.linear_1",
    "t_embedder.mlp.2": "time_embedder.linear_2", "y_embedder.y_proj.0": "caption_embedder.linear_1",
    "y_embedder.y_proj.2": "caption_embedder.linear_2", "final_layer.adaLN_modulation.1": "final_layer.adaln_linear",
    "final_layer.linear": "final_layer.proj", "adaLN_modulation.1": "adaln_linear_1",
    "pre_crs_attn_norm": "norm_cross", "cross_attn.q_linear": "cross_attn.to_q", "cross_attn.proj": "cross_attn.to_out",
    ".attn.proj": ".self_attn.to_out", ".attn.q_norm": ".self_attn.q_norm", ".attn.k_norm": ".self_attn.k_norm",
}


def fastvideo(key, value):
    """The keys and values of an official tensor as FastVideo converts it."""
    for fused, parts in ((".attn.qkv.", "qkv"), (".cross_attn.kv_linear.", "kv")):
        if fused in key:
            layer = ".self_attn." if parts == "qkv" else ".cross_attn."
            rows = value.chunk(len(parts))
            names = [key.replace(fused, f"{layer}to_{part}.") for part in parts]
            return [(name, part.contiguous()) for name, part in zip(names, rows)]
    for ours, theirs in FASTVIDEO.items():
        key = key.replace(ours, theirs)
    return [(key, value)]


def packed_layer(key):
    """Linear layers of a block but for the modulation, as in the published fp8 file."""
    return key.startswith("blocks.0.") and key.endswith(".weight") and "norm" not in key and "adaLN" not in key


def rewritten(official, pack, names=kijai):
    """Tensors of a file, and what they unpack to by official name: `pack(key, value)` gives the stored tensors
    of one layer's weight and its values."""
    stored, values = {}, {}
    for key, value in official.items():
        parts = []
        for theirs, part in names(key, value):
            if packed_layer(key):
                more, unpacked = pack(theirs, part)
                stored.update(more)
            else:
                stored[theirs] = part
                unpacked = part.float()
            parts.append(unpacked)
        values[key] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return stored, values


def fp8(value, dtype, scale_shape):
    top = torch.finfo(dtype).max
    rows = value.float().abs().amax(dim=1) if scale_shape == "rows" else value.float().abs().amax()
    scale = (rows / top).to(torch.float32)
    scale = scale.reshape(-1, 1) if scale_shape == "rows" else scale
    q = (value.float() / scale).to(dtype)
    return q, scale


def int8(value):
    scale = value.float().abs().amax(dim=1, keepdim=True) / 127
    q = (value.float() / scale).round().clamp(-127, 127).to(torch.int8)
    return q, scale


def transformer_files():
    official = transformer()
    expect("kijai_bf16.safetensors", {k: v.float() for k, v in official.items()})
    plain = {}
    for key, value in official.items():
        plain.update({f"model.diffusion_model.{k}": v for k, v in kijai(key, value)})
    save_file(plain, path("kijai_bf16.safetensors"))

    expect("fastvideo_bf16.safetensors", {k: v.float() for k, v in official.items()})
    converted = {k: v for key, value in official.items() for k, v in fastvideo(key, value)}
    save_file(converted, path("fastvideo_bf16.safetensors"))

    def scaled(key, value):
        q, s = fp8(value, torch.float8_e4m3fn, "tensor")
        return {key: q, key.replace(".weight", ".scale_weight"): s}, q.float() * s

    stored, values = rewritten(official, scaled)
    stored = {f"diffusion_model.{k}": v for k, v in stored.items()}
    stored["diffusion_model.scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save_file(stored, path("kijai_fp8_scaled.safetensors"))
    expect("kijai_fp8_scaled.safetensors", values)

    def unscaled(key, value):
        dtype = torch.float8_e5m2 if ".ffn." in key else torch.float8_e4m3fn
        q = value.to(dtype)
        return {key: q}, q.float()

    stored, values = rewritten(official, unscaled)
    save_file(stored, path("kijai_fp8.safetensors"))
    expect("kijai_fp8.safetensors", values)

    def comfy(key, value):
        layer = key[: -len(".weight")]
        if ".ffn." in key:
            q, s = int8(value)
            description = {"format": "int8_tensorwise", "per_row": True}
        else:
            dtype = torch.float8_e5m2 if key.endswith("o.weight") else torch.float8_e4m3fn
            q, s = fp8(value, dtype, "rows")
            description = {"format": str(dtype).split(".")[1], "full_precision_matrix_mult": True}
        json_ = torch.tensor(list(json.dumps(description).encode()), dtype=torch.uint8)
        more = {key: q, f"{layer}.weight_scale": s, f"{layer}.comfy_quant": json_}
        more[f"{layer}.input_scale"] = torch.ones(())
        return more, q.float() * s

    stored, values = rewritten(official, comfy)
    save_file(stored, path("comfy_quant.safetensors"))
    expect("comfy_quant.safetensors", values)

    def same(key, value):
        return [(key, value)]

    def official_int8(key, value):
        q, s = int8(value)
        layer = key[: -len(".weight")]
        return {f"{layer}.weight_int8": q, f"{layer}.weight_scale": s.reshape(-1)}, q.float() * s

    stored, values = rewritten(official, official_int8, same)
    name = "quantized_model-00001-of-00001.safetensors"
    save_file(stored, path(f"official_int8/{name}"))
    index = {"metadata": {}, "weight_map": {k: name for k in sorted(stored)}}
    with open(path("official_int8/quantized_model.safetensors.index.json"), "w") as file:
        json.dump(index, file)
    expect("official_int8", values)

    def quanto(key, value):
        q, s = int8(value)
        s = s.bfloat16()
        layer = key[: -len(".weight")]
        more = {f"{key}._data": q, f"{key}._scale": s}
        more.update({f"{layer}.{side}_scale": torch.ones(()) for side in ("input", "output")})
        return more, q.float() * s.float()

    stored, values = rewritten(official, quanto, same)
    save_file(stored, path("quanto_int8.safetensors"))
    expect("quanto_int8.safetensors", values)

    blocks = {}
    for key, value in official.items():
        for theirs, part in kijai(key, value):
            blocks[theirs] = (key, part)
    for name, kinds in (
        ("kijai_q8_0.gguf", ["Q8_0"]),
        ("kijai_mixed.gguf", ["Q4_K", "Q6_K", "Q5_K", "Q3_K", "Q2_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]),
    ):
        writer = gguf.GGUFWriter(path(name), "wan")
        values, count = {}, 0
        for theirs, (key, part) in blocks.items():
            kind = "BF16" if part.ndim > 1 else "F32"
            if packed_layer(key):
                kind, count = kinds[count % len(kinds)], count + 1
            kind = gguf.GGMLQuantizationType[kind]
            flat = part.float().numpy()
            shape = list(flat.shape)
            block = gguf.GGML_QUANT_SIZES[kind][0]
            if flat.ndim == 5 and name == "kijai_mixed.gguf":
                # More dimensions than ggml has: flattened, with the shape beside it.
                writer.add_array(f"comfy.gguf.orig_shape.{theirs}", shape)
                flat = flat.reshape(shape[0], -1)
            elif shape[-1] % block:
                writer.add_array(f"comfy.gguf.orig_shape.{theirs}", shape)
                flat = flat.reshape(-1, 256)
            data = quantize(flat, kind)
            numbers = gguf.dequantize(data, kind).astype(np.float32)
            writer.add_tensor(theirs, data, raw_dtype=kind)
            values.setdefault(key, []).append(torch.from_numpy(numbers.reshape(shape).copy()))
        finish(writer)
        expect(name, {k: torch.cat(v) if len(v) > 1 else v[0] for k, v in values.items()})


def quantize(data, kind):
    try:
        return gguf.quantize(np.ascontiguousarray(data), kind)
    except NotImplementedError:
        return random_blocks(data.shape, kind)


def random_blocks(shape, kind):
    """Any bytes are a block; its scales, halves at the end or the beginning, are kept small."""
    size, bytes_ = gguf.GGML_QUANT_SIZES[kind]
    blocks = RNG.integers(0, 256, (int(np.prod(shape)) // size, bytes_), dtype=np.uint8)
    small = (RNG.standard_normal((len(blocks), 2)) * 0.002).astype(np.float16).view(np.uint8)
    places = {"Q2_K": (80, 4), "Q3_K": (108, 2), "Q4_K": (0, 4), "Q5_K": (0, 4), "Q6_K": (208, 2)}
    at, count = places[kind.name]
    blocks[:, at : at + count] = small[:, :count]
    return blocks.reshape(*shape[:-1], shape[-1] // size * bytes_)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


PROMPTS = [
    "a red circle moves right", "  The  train crosses a bridge. ", "Ｆull width, naïve café ﬁne", "一只猫 sits",
    "1,340 to 1,464 TFLOP/s", "x", "", "tab\tand\nline",
]


def sentence_piece():
    """A SentencePiece model of 300 pieces that replaces a few characters, and the ids of some prompts."""
    lines = [json.dumps(value) for value in json.load(open(os.path.join(HERE, "manifest.json")))["cases"]]
    lines += open(os.path.join(HERE, "README.md")).read().splitlines()
    rules = os.path.join(OUT, "rules.tsv")
    with open(rules, "w") as file:
        for old, new in (("Ｆ", "F"), ("ﬁ", "fi"), ("\t", " "), ("\n", " "), ("ï", "i")):
            hex_ = [" ".join(f"{ord(c):X}" for c in text) for text in (old, new)]
            file.write("\t".join(hex_) + "\n")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in lines if line.strip()), model_writer=model, vocab_size=300,
        model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=0.98,
        normalization_rule_tsv=rules, minloglevel=2,
    )
    os.remove(rules)
    model = model.getvalue()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    with open(path("spiece.model"), "wb") as file:
        file.write(model)
    with open(path("spiece.json"), "w") as file:
        ids = [[prompt, processor.encode(prompt, add_eos=True)] for prompt in PROMPTS]
        json.dump(ids, file, ensure_ascii=False)
        file.write("\n")
    return model


def text_encoder_files():
    official = load_file(os.path.join(TINY, "text_encoder", "model.safetensors"))
    wan, llama = {}, {}
    for key, value in official.items():
        new = key.replace("shared.", "token_embedding.").replace("encoder.final_layer_norm.", "norm.")
        new = new.replace("encoder.block.", "blocks.")
        new = new.replace("layer.0.SelfAttention.relative_attention_bias", "pos_embedding.embedding")
        new = new.replace("layer.0.SelfAttention.", "attn.").replace("layer.0.layer_norm", "norm1")
        new = new.replace("layer.1.layer_norm", "norm2").replace("layer.1.DenseReluDense.wi_0", "ffn.gate.0")
        new = new.replace("layer.1.DenseReluDense.wi_1", "ffn.fc1").replace("layer.1.DenseReluDense.wo", "ffn.fc2")
        wan[new] = value.bfloat16()
        new = key.replace("encoder.block.", "enc.blk.").replace("shared.", "token_embd.")
        new = new.replace("encoder.final_layer_norm", "enc.output_norm")
        new = new.replace("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b")
        new = new.replace("layer.0.SelfAttention.", "attn_").replace("layer.0.layer_norm", "attn_norm")
        new = new.replace("layer.1.DenseReluDense.wi_1", "ffn_up").replace("layer.1.DenseReluDense.wo", "ffn_down")
        new = new.replace("layer.1.DenseReluDense.wi_0", "ffn_gate").replace("layer.1.layer_norm", "ffn_norm")
        llama[new] = (key, value)
    torch.save(wan, path("umt5_wan_bf16.pth"))
    expect("umt5_wan_bf16.pth", {k: v.bfloat16() for k, v in official.items()})

    stored, values = {}, {}
    for key, value in official.items():
        if "SelfAttention." in key and "bias" not in key or "DenseReluDense" in key:
            q, s = fp8(value, torch.float8_e4m3fn, "tensor")
            stored[key], stored[key.replace(".weight", ".scale_weight")] = q, s
            values[key] = q.float() * s
        else:
            stored[key] = value.half()
            values[key] = value.half().float()
    stored["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    stored["spiece_model"] = torch.tensor(list(sentence_piece()), dtype=torch.uint8)
    save_file(stored, path("umt5_fp8_scaled.safetensors"))
    expect("umt5_fp8_scaled.safetensors", values)

    writer = gguf.GGUFWriter(path("umt5_q8_0.gguf"), "t5encoder")
    writer.add_token_list(["<pad>", "</s>", "<unk>"] * 4)
    values = {}
    for theirs, (key, value) in llama.items():
        kind = "F32" if value.ndim == 1 else "Q8_0" if value.shape[-1] % 32 == 0 else "F16"
        kind = gguf.GGMLQuantizationType[kind]
        data = gguf.quantize(value.numpy(), kind)
        writer.add_tensor(theirs, data, raw_dtype=kind)
        values[key] = torch.from_numpy(gguf.dequantize(data, kind).astype(np.float32).reshape(value.shape).copy())
    finish(writer)
    expect("umt5_q8_0.gguf", values)


def vae_files():
    """Wan's names and those of diffusers, block by block as in diffusers' converter."""
    base, z, mult, temporal = 2, 16, [1, 2, 4, 4], [False, True, True]
    wan, official = {}, {}

    def put(theirs, ours, *shape):
        fan_in = int(np.prod(shape[1:])) or 1
        value = (torch.randn(shape) * fan_in ** -0.5).bfloat16()
        wan[theirs], official[ours] = value, value

    def conv(theirs, ours, out, inp, *kernel):
        put(f"{theirs}.weight", f"{ours}.weight", out, inp, *kernel)
        put(f"{theirs}.bias", f"{ours}.bias", out)

    def residual(theirs, ours, inp, out):
        put(f"{theirs}.residual.0.gamma", f"{ours}.norm1.gamma", inp, 1, 1, 1)
        conv(f"{theirs}.residual.2", f"{ours}.conv1", out, inp, 3, 3, 3)
        put(f"{theirs}.residual.3.gamma", f"{ours}.norm2.gamma", out, 1, 1, 1)
        conv(f"{theirs}.residual.6", f"{ours}.conv2", out, out, 3, 3, 3)
        if inp != out:
            conv(f"{theirs}.shortcut", f"{ours}.conv_shortcut", out, inp, 1, 1, 1)

    def middle(side, width):
        residual(f"{side}.middle.0", f"{side}.mid_block.resnets.0", width, width)
        theirs, ours = f"{side}.middle.1", f"{side}.mid_block.attentions.0"
        put(f"{theirs}.norm.gamma", f"{ours}.norm.gamma", width, 1, 1)
        conv(f"{theirs}.to_qkv", f"{ours}.to_qkv", 3 * width, width, 1, 1)
        conv(f"{theirs}.proj", f"{ours}.proj", width, width, 1, 1)
        residual(f"{side}.middle.2", f"{side}.mid_block.resnets.1", width, width)

    conv("encoder.conv1", "encoder.conv_in", base, 3, 3, 3, 3)
    width, index = base, 0
    for level, m in enumerate(mult):
        for _ in range(2):
            residual(f"encoder.downsamples.{index}", f"encoder.down_blocks.{index}", width, base * m)
            width, index = base * m, index + 1
        if level < len(temporal):
            theirs, ours = f"encoder.downsamples.{index}", f"encoder.down_blocks.{index}"
            conv(f"{theirs}.resample.1", f"{ours}.resample.1", width, width, 3, 3)
            if temporal[level]:
                conv(f"{theirs}.time_conv", f"{ours}.time_conv", width, width, 3, 1, 1)
            index += 1
    middle("encoder", width)
    put("encoder.head.0.gamma", "encoder.norm_out.gamma", width, 1, 1, 1)
    conv("encoder.head.2", "encoder.conv_out", 2 * z, width, 3, 3, 3)
    conv("conv1", "quant_conv", 2 * z, 2 * z, 1, 1, 1)
    conv("conv2", "post_quant_conv", z, z, 1, 1, 1)
    conv("decoder.conv1", "decoder.conv_in", width, z, 3, 3, 3)
    middle("decoder", width)
    index = 0
    for level, m in enumerate(reversed(mult)):
        for block in range(3):
            ours = f"decoder.up_blocks.{level}.resnets.{block}"
            residual(f"decoder.upsamples.{index}", ours, width, base * m)
            width, index = base * m, index + 1
        if level < len(temporal):
            theirs, ours = f"decoder.upsamples.{index}", f"decoder.up_blocks.{level}.upsamplers.0"
            conv(f"{theirs}.resample.1", f"{ours}.resample.1", width // 2, width, 3, 3)
            if list(reversed(temporal))[level]:
                conv(f"{theirs}.time_conv", f"{ours}.time_conv", 2 * width, width, 3, 1, 1)
            width, index = width // 2, index + 1
    put("decoder.head.0.gamma", "decoder.norm_out.gamma", width, 1, 1, 1)
    conv("decoder.head.2", "decoder.conv_out", 3, width, 3, 3, 3)
    torch.save({"state_dict": wan}, path("vae_wan_bf16.pth"))
    expect("vae_wan_bf16.pth", official)


def eight_bits():
    """All patterns of fp8 by PyTorch, those that are not finite left out."""
    values = {}
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        patterns = torch.arange(256, dtype=torch.uint8)
        finite = torch.isfinite(patterns.view(dtype).float())
        values[str(dtype).split(".")[1]] = patterns[finite].contiguous().view(dtype)
    save_file(values, path("fp8_patterns.safetensors"))
    expect("fp8_patterns.safetensors", {k: v.float() for k, v in values.items()})
    torch.save(values, path("fp8_patterns.pth"))
    expect("fp8_patterns.pth", {k: v.float() for k, v in values.items()})


transformer_files()
text_encoder_files()
vae_files()
eight_bits()
with open(path("expected.json"), "w") as file:
    lines = []
    for name, tensors in EXPECTED.items():
        rows = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in tensors.items())
        lines.append(f"  {json.dumps(name)}: {{\n{rows}\n  }}")
    file.write("{\n" + ",\n".join(lines) + "\n}\n")
