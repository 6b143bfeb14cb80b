//! Files of other models, told by their keys, so that errors can say what a file is.

use crate::WeightFiles;

/// What a file holds, and pieces of names that all have to occur in it. The first row that fits counts.
///
/// Sources: the state dicts of the models' own repositories and of diffusers.
const MODELS: &[(&str, &[&str])] = &[
    (
        "LongCat-Video-Avatar (video from audio)",
        &["blocks.0.attn.qkv.", "audio"],
    ),
    (
        "LongCat-Video-Avatar (video from audio)",
        &["blocks.0.self_attn.q.", "blocks.0.ffn.w1.", "audio"],
    ),
    ("an adapter, which --lora takes", &[".lora_"]),
    ("an adapter, which --lora takes", &["lora___lorahyphen___"]),
    ("an adapter, which --lora takes", &[".hada_w1_a"]),
    ("an adapter, which --lora takes", &[".lokr_w"]),
    (
        "the Wan video transformer (2.1 or 2.2)",
        &[
            "blocks.0.self_attn.q.",
            "blocks.0.ffn.0.",
            "time_projection.1.",
        ],
    ),
    (
        "the Wan video transformer (2.1 or 2.2)",
        &["blocks.0.attn1.to_q.", "condition_embedder.time_proj."],
    ),
    (
        "the HunyuanVideo transformer",
        &["double_blocks.0.img_attn", "individual_token_refiner"],
    ),
    (
        "the HunyuanVideo transformer",
        &["transformer_blocks.0.attn.add_q_proj.", "token_refiner"],
    ),
    ("the Flux transformer", &["double_blocks.0.img_attn"]),
    (
        "the Flux transformer",
        &[
            "single_transformer_blocks.0.attn.to_q.",
            "context_embedder.",
        ],
    ),
    (
        "the LTX-Video transformer",
        &["patchify_proj.", "adaln_single."],
    ),
    (
        "the CogVideoX transformer",
        &[
            "transformer_blocks.0.norm1.linear.",
            "patch_embed.text_proj.",
        ],
    ),
    ("the Mochi transformer", &["blocks.0.attn.qkv_x."]),
    (
        "the Qwen-Image transformer",
        &["transformer_blocks.0.img_mod.1."],
    ),
    (
        "the Stable Diffusion 3 transformer",
        &["joint_blocks.0.x_block."],
    ),
    (
        "a Stable Diffusion UNet",
        &["input_blocks.0.0.", "output_blocks."],
    ),
    (
        "a Stable Diffusion UNet",
        &["down_blocks.0.resnets.0.time_emb_proj."],
    ),
    (
        "the Wan 2.2 VAE (latents of 48 channels)",
        &["decoder.upsamples.0.upsamples.0."],
    ),
    (
        "the Wan 2.2 VAE (latents of 48 channels)",
        &["decoder.up_blocks.0.upsampler."],
    ),
    (
        "an image VAE (Stable Diffusion, Flux)",
        &["decoder.mid.block_1.norm1."],
    ),
    (
        "the LTX-Video VAE",
        &["decoder.", "per_channel_statistics."],
    ),
    ("a CLIP text encoder", &["text_model.encoder.layers.0."]),
    (
        "a language model (Qwen, Llama, Gemma)",
        &["layers.0.self_attn.q_proj.", "layers.0.mlp."],
    ),
    (
        "a language model (Qwen, Llama, Gemma)",
        &["blk.0.attn_output.", "blk.0.ffn_gate."],
    ),
];

/// The model whose weights these are, where it is a known one that this project does not run.
pub fn other_model(files: &WeightFiles) -> Option<&'static str> {
    let occurs = |piece: &&str| files.keys().any(|key| key.contains(*piece));
    MODELS
        .iter()
        .find(|(_, pieces)| pieces.iter().all(occurs))
        .map(|(model, _)| *model)
}
