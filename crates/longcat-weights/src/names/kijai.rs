//! The layer names of Kijai's ComfyUI nodes, which single files, GGUF files and adapters use.

/// Kijai's names of layers and the official ones, without the tensor's own name (`.weight`). `{i}`
/// is the number of a block; `#j` is part j of a layer whose output rows are several layers.
///
/// Source: the model of LongCat-Video in kijai/ComfyUI-WanVideoWrapper. Parts of fused layers go
/// into the official ones without any permutation of rows.
pub const KIJAI_LAYERS: &[(&str, &str)] = &[
    ("patch_embedding", "x_embedder.proj"),
    ("time_embedding.mlp.0", "t_embedder.mlp.0"),
    ("time_embedding.mlp.2", "t_embedder.mlp.2"),
    ("text_embedding.0", "y_embedder.y_proj.0"),
    ("text_embedding.2", "y_embedder.y_proj.2"),
    ("blocks.{i}.modulation.1", "blocks.{i}.adaLN_modulation.1"),
    ("blocks.{i}.self_attn.q", "blocks.{i}.attn.qkv#0"),
    ("blocks.{i}.self_attn.k", "blocks.{i}.attn.qkv#1"),
    ("blocks.{i}.self_attn.v", "blocks.{i}.attn.qkv#2"),
    ("blocks.{i}.self_attn.o", "blocks.{i}.attn.proj"),
    ("blocks.{i}.self_attn.norm_q", "blocks.{i}.attn.q_norm"),
    ("blocks.{i}.self_attn.norm_k", "blocks.{i}.attn.k_norm"),
    ("blocks.{i}.norm3", "blocks.{i}.pre_crs_attn_norm"),
    ("blocks.{i}.cross_attn.q", "blocks.{i}.cross_attn.q_linear"),
    (
        "blocks.{i}.cross_attn.k",
        "blocks.{i}.cross_attn.kv_linear#0",
    ),
    (
        "blocks.{i}.cross_attn.v",
        "blocks.{i}.cross_attn.kv_linear#1",
    ),
    ("blocks.{i}.cross_attn.o", "blocks.{i}.cross_attn.proj"),
    (
        "blocks.{i}.cross_attn.norm_q",
        "blocks.{i}.cross_attn.q_norm",
    ),
    (
        "blocks.{i}.cross_attn.norm_k",
        "blocks.{i}.cross_attn.k_norm",
    ),
    ("head.modulation.1", "final_layer.adaLN_modulation.1"),
    ("head.head", "final_layer.linear"),
];
