//! Names: the official module paths are canonical; tables lead from other layouts to them and from
//! them to the module tree.

use std::sync::LazyLock;

use burn::tensor::backend::Backend;
use longcat_lora::{Format, LoraHost, LoraLinear, LoraVector, Target, TargetTable};
use longcat_weights::{
    KIJAI_LAYERS, NameMap, NamedTensor, Weight, WeightFiles, WeightHost, WeightsError,
    collect_module,
};
use regex::Regex;

use crate::{Block, DitConfig, LongCatTransformer};

/// Official keys to paths in the module tree.
const CANONICAL: &[(&str, &str)] = &[
    (r"adaLN_modulation\.1\.", "adaln."),
    (r"^t_embedder\.mlp\.0\.", "t_embedder.linear_in."),
    (r"^t_embedder\.mlp\.2\.", "t_embedder.linear_out."),
    (r"^y_embedder\.y_proj\.0\.", "y_embedder.linear_in."),
    (r"^y_embedder\.y_proj\.2\.", "y_embedder.linear_out."),
    (r"\.([qk]_norm)\.weight$", ".${1}.value"),
    (
        r"\.pre_crs_attn_norm\.weight$",
        ".pre_crs_attn_norm.gamma.value",
    ),
    (
        r"\.pre_crs_attn_norm\.bias$",
        ".pre_crs_attn_norm.beta.value",
    ),
];

/// Paths in the module tree to official keys, the inverse of [`CANONICAL`].
const INTERNAL: &[(&str, &str)] = &[
    (r"adaln\.", "adaLN_modulation.1."),
    (r"^t_embedder\.linear_in\.", "t_embedder.mlp.0."),
    (r"^t_embedder\.linear_out\.", "t_embedder.mlp.2."),
    (r"^y_embedder\.linear_in\.", "y_embedder.y_proj.0."),
    (r"^y_embedder\.linear_out\.", "y_embedder.y_proj.2."),
    (r"\.gamma\.value$", ".weight"),
    (r"\.beta\.value$", ".bias"),
    (r"\.value$", ".weight"),
];

/// FastVideo's converted checkpoint to official keys; a trailing `#j` is part j of fused rows.
const FASTVIDEO: &[(&str, &str)] = &[
    (r"^patch_embed\.", "x_embedder."),
    (r"^time_embedder\.linear_1\.", "t_embedder.mlp.0."),
    (r"^time_embedder\.linear_2\.", "t_embedder.mlp.2."),
    (r"^caption_embedder\.linear_1\.", "y_embedder.y_proj.0."),
    (r"^caption_embedder\.linear_2\.", "y_embedder.y_proj.2."),
    (r"\.adaln_linear_1\.", ".adaLN_modulation.1."),
    (r"\.norm_cross\.", ".pre_crs_attn_norm."),
    (r"\.cross_attn\.to_q\.", ".cross_attn.q_linear."),
    (r"\.cross_attn\.to_k\.(.*)$", ".cross_attn.kv_linear.${1}#0"),
    (r"\.cross_attn\.to_v\.(.*)$", ".cross_attn.kv_linear.${1}#1"),
    (r"\.cross_attn\.to_out\.", ".cross_attn.proj."),
    (r"\.self_attn\.to_q\.(.*)$", ".attn.qkv.${1}#0"),
    (r"\.self_attn\.to_k\.(.*)$", ".attn.qkv.${1}#1"),
    (r"\.self_attn\.to_v\.(.*)$", ".attn.qkv.${1}#2"),
    (r"\.self_attn\.to_out\.", ".attn.proj."),
    (r"\.self_attn\.", ".attn."),
    (
        r"^final_layer\.adaln_linear\.",
        "final_layer.adaLN_modulation.1.",
    ),
    (r"^final_layer\.proj\.", "final_layer.linear."),
];

/// Layers that adapters attach to: name, fused parts, names of the parts in split files.
const TARGETS: &[Target] = &[
    target(PATCHES),
    target("t_embedder.mlp.0"),
    target("t_embedder.mlp.2"),
    target("y_embedder.y_proj.0"),
    target("y_embedder.y_proj.2"),
    fused("blocks.{i}.adaLN_modulation.1", 6, &[]),
    fused(
        "blocks.{i}.attn.qkv",
        3,
        &[
            "blocks.{i}.self_attn.to_q",
            "blocks.{i}.self_attn.to_k",
            "blocks.{i}.self_attn.to_v",
        ],
    ),
    target("blocks.{i}.attn.proj"),
    target("blocks.{i}.cross_attn.q_linear"),
    fused(
        "blocks.{i}.cross_attn.kv_linear",
        2,
        &["blocks.{i}.cross_attn.to_k", "blocks.{i}.cross_attn.to_v"],
    ),
    target("blocks.{i}.cross_attn.proj"),
    target("blocks.{i}.ffn.w1"),
    target("blocks.{i}.ffn.w2"),
    target("blocks.{i}.ffn.w3"),
    fused("final_layer.adaLN_modulation.1", 2, &[]),
    target("final_layer.linear"),
];

/// The layer whose weight is a convolution's in files.
const PATCHES: &str = "x_embedder.proj";

/// Vectors that adapters can change.
const NORMS: &[&str] = &[
    "blocks.{i}.attn.q_norm",
    "blocks.{i}.attn.k_norm",
    "blocks.{i}.cross_attn.q_norm",
    "blocks.{i}.cross_attn.k_norm",
    "blocks.{i}.pre_crs_attn_norm",
];

/// Names for groups of layers, where a user says on which an adapter acts.
const GROUPS: &[(&str, &[&str])] = &[
    ("attn", &["blocks.{i}.attn"]),
    ("cross_attn", &["blocks.{i}.cross_attn"]),
    ("ffn", &["blocks.{i}.ffn"]),
    (
        "adaln",
        &[
            "blocks.{i}.adaLN_modulation",
            "final_layer.adaLN_modulation",
        ],
    ),
    ("norms", NORMS),
    ("embedders", &["x_embedder", "t_embedder", "y_embedder"]),
];

/// FastVideo's names of layers.
const FASTVIDEO_LAYERS: &[(&str, &str)] = &[
    ("patch_embed.proj", PATCHES),
    ("time_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_embedder.linear_2", "t_embedder.mlp.2"),
    ("caption_embedder.linear_1", "y_embedder.y_proj.0"),
    ("caption_embedder.linear_2", "y_embedder.y_proj.2"),
    ("blocks.{i}.adaln_linear_1", "blocks.{i}.adaLN_modulation.1"),
    ("blocks.{i}.self_attn.to_q", "blocks.{i}.attn.qkv#0"),
    ("blocks.{i}.self_attn.to_k", "blocks.{i}.attn.qkv#1"),
    ("blocks.{i}.self_attn.to_v", "blocks.{i}.attn.qkv#2"),
    ("blocks.{i}.self_attn.to_out", "blocks.{i}.attn.proj"),
    ("blocks.{i}.self_attn.q_norm", "blocks.{i}.attn.q_norm"),
    ("blocks.{i}.self_attn.k_norm", "blocks.{i}.attn.k_norm"),
    ("blocks.{i}.norm_cross", "blocks.{i}.pre_crs_attn_norm"),
    (
        "blocks.{i}.cross_attn.to_q",
        "blocks.{i}.cross_attn.q_linear",
    ),
    (
        "blocks.{i}.cross_attn.to_k",
        "blocks.{i}.cross_attn.kv_linear#0",
    ),
    (
        "blocks.{i}.cross_attn.to_v",
        "blocks.{i}.cross_attn.kv_linear#1",
    ),
    ("blocks.{i}.cross_attn.to_out", "blocks.{i}.cross_attn.proj"),
    ("final_layer.adaln_linear", "final_layer.adaLN_modulation.1"),
    ("final_layer.proj", "final_layer.linear"),
];

/// Further spellings of the targets in adapter files, those of diffusers' other models.
const ALIASES: &[(&str, &str)] = &[
    ("blocks.{i}.attn.to_q", "blocks.{i}.attn.qkv#0"),
    ("blocks.{i}.attn.to_k", "blocks.{i}.attn.qkv#1"),
    ("blocks.{i}.attn.to_v", "blocks.{i}.attn.qkv#2"),
    ("blocks.{i}.attn.to_out.0", "blocks.{i}.attn.proj"),
    (
        "blocks.{i}.cross_attn.to_out.0",
        "blocks.{i}.cross_attn.proj",
    ),
];

const fn target(name: &'static str) -> Target {
    fused(name, 1, &[])
}

const fn fused(name: &'static str, parts: usize, split: &'static [&'static str]) -> Target {
    Target { name, parts, split }
}

/// Official keys to paths in the module tree.
pub fn canonical_names() -> NameMap {
    NameMap::new(CANONICAL)
}

/// Paths in the module tree to official keys.
pub fn internal_names() -> NameMap {
    NameMap::new(INTERNAL)
}

/// The layers that adapters attach to, how they are fused, and how adapter files spell them.
pub fn lora_targets() -> &'static TargetTable {
    static TABLE: LazyLock<TargetTable> = LazyLock::new(|| {
        TargetTable::new(TARGETS, ALIASES)
            .with_norms(NORMS)
            .with_names(Format::FastVideo, FASTVIDEO_LAYERS)
            .with_names(Format::ComfyUi, KIJAI_LAYERS)
            .with_kernel(PATCHES, &[1, 2, 2])
            .with_groups(GROUPS)
    });
    &TABLE
}

/// The weights of a transformer under their official names and in their official shapes.
///
/// # Errors
/// [`WeightsError::ReadBack`] when a weight cannot be read from its device.
pub fn official_tensors<B: Backend>(
    model: &LongCatTransformer<B>,
) -> Result<Vec<NamedTensor>, WeightsError> {
    let mut tensors = collect_module(model, &internal_names())?;
    let config = model.config();
    for tensor in &mut tensors {
        if tensor.name == format!("{PATCHES}.weight") {
            let [t, h, w] = config.patch_size;
            tensor.data.shape = [config.hidden_size, config.in_channels, t, h, w].into();
        }
    }
    Ok(tensors)
}

/// Files of official names in the shapes of the module tree.
pub(crate) fn in_module_shapes(files: &WeightFiles) -> WeightFiles {
    files.flattened(&format!("{PATCHES}.weight"))
}

/// Renames FastVideo's converted weights to the official keys and fuses the rows it split.
///
/// # Errors
/// [`WeightsError::BadIndex`] when parts of a fused layer are missing.
pub fn from_fastvideo(files: &WeightFiles) -> Result<WeightFiles, WeightsError> {
    files.renamed(&NameMap::new(FASTVIDEO))
}

/// Module paths whose weights and arithmetic stay fp32 in every dtype.
pub(crate) fn fp32_islands() -> Regex {
    match Regex::new(r"adaln\.|^t_embedder\.|^final_layer\.|norm\.(gamma\.|beta\.)?value$") {
        Ok(regex) => regex,
        Err(error) => unreachable!("{error}"),
    }
}

/// Narrower transformers have more layers that are not packed.
const NARROW: usize = 1024;

/// Module paths whose weights are not packed while they load: embedders, modulation, the final layer, and
/// the first and last block where more than these are left. Of a narrow model, whose errors average out over
/// less, also a second block at either end and the queries, keys and values of self-attention: with fp8 in
/// these, too, videos of the built-in model are 26 to 42 dB off, and without 37 to 49.
pub(crate) fn sensitive_layers(config: &DitConfig) -> Regex {
    let narrow = config.hidden_size < NARROW;
    let (ends, depth) = (if narrow { 2 } else { 1 }, config.depth);
    let mut pattern = r"adaln\.|^[xyt]_embedder\.|^final_layer\.".to_string();
    if narrow {
        pattern += r"|\.attn\.qkv\.";
    }
    if depth > 2 * ends {
        for block in (0..ends).chain(depth - ends..depth) {
            pattern += &format!(r"|^blocks\.{block}\.");
        }
    }
    match Regex::new(&pattern) {
        Ok(regex) => regex,
        Err(error) => unreachable!("{error}"),
    }
}

/// Tells which weights, by their official names, `--precision` and `longcat quantize` pack: the matrices of
/// attention and feed-forward in all blocks but the first and last. Embedders, modulation and the final layer
/// stay floats, and more than these in small models.
pub fn packable(config: &DitConfig) -> impl Fn(&str) -> bool + use<> {
    let (names, sensitive) = (canonical_names(), sensitive_layers(config));
    move |name| {
        let path = names.map(name);
        let matrix = path.starts_with("blocks.") && path.ends_with(".weight");
        matrix && !sensitive.is_match(&path)
    }
}

macro_rules! layers_of_block {
    ($block:expr, $($borrow:tt)+) => {
        [
            ("adaLN_modulation.1", $($borrow)+ $block.adaln),
            ("attn.qkv", $($borrow)+ $block.attn.qkv),
            ("attn.proj", $($borrow)+ $block.attn.proj),
            ("cross_attn.q_linear", $($borrow)+ $block.cross_attn.q_linear),
            ("cross_attn.kv_linear", $($borrow)+ $block.cross_attn.kv_linear),
            ("cross_attn.proj", $($borrow)+ $block.cross_attn.proj),
            ("ffn.w1", $($borrow)+ $block.ffn.w1),
            ("ffn.w2", $($borrow)+ $block.ffn.w2),
            ("ffn.w3", $($borrow)+ $block.ffn.w3),
        ]
    };
}

impl<B: Backend> Block<B> {
    /// The layers that adapters attach to, with their names in the block.
    pub(crate) fn layers(&self) -> [(&'static str, &LoraLinear<B>); 9] {
        layers_of_block!(self, &)
    }

    fn layers_mut(&mut self) -> [(&'static str, &mut LoraLinear<B>); 9] {
        layers_of_block!(self, &mut)
    }
}

macro_rules! each_layer {
    ($model:expr, $visit:expr, $layers:ident, $($borrow:tt)+) => {{
        $visit(PATCHES, $($borrow)+ $model.x_embedder.proj);
        $visit("t_embedder.mlp.0", $($borrow)+ $model.t_embedder.linear_in);
        $visit("t_embedder.mlp.2", $($borrow)+ $model.t_embedder.linear_out);
        $visit("y_embedder.y_proj.0", $($borrow)+ $model.y_embedder.linear_in);
        $visit("y_embedder.y_proj.2", $($borrow)+ $model.y_embedder.linear_out);
        for (i, block) in ($($borrow)+ $model.blocks).into_iter().enumerate() {
            for (name, layer) in block.$layers() {
                $visit(&format!("blocks.{i}.{name}"), layer);
            }
        }
        $visit("final_layer.adaLN_modulation.1", $($borrow)+ $model.final_layer.adaln);
        $visit("final_layer.linear", $($borrow)+ $model.final_layer.linear);
    }};
}

macro_rules! each_vector {
    ($model:expr, $visit:expr, $($borrow:tt)+) => {{
        for (i, block) in ($($borrow)+ $model.blocks).into_iter().enumerate() {
            let name = |tensor: &str| format!("blocks.{i}.{tensor}");
            $visit(&name("attn.q_norm.weight"), $($borrow)+ block.attn.q_norm);
            $visit(&name("attn.k_norm.weight"), $($borrow)+ block.attn.k_norm);
            $visit(&name("cross_attn.q_norm.weight"), $($borrow)+ block.cross_attn.q_norm);
            $visit(&name("cross_attn.k_norm.weight"), $($borrow)+ block.cross_attn.k_norm);
            let norm = $($borrow)+ block.pre_crs_attn_norm;
            $visit(&name("pre_crs_attn_norm.weight"), $($borrow)+ norm.gamma);
            $visit(&name("pre_crs_attn_norm.bias"), $($borrow)+ norm.beta);
        }
    }};
}

impl<B: Backend> LoraHost<B> for LongCatTransformer<B> {
    fn visit_lora(&self, visit: &mut dyn FnMut(&str, &LoraLinear<B>)) {
        each_layer!(self, visit, layers, &);
    }

    fn visit_lora_mut(&mut self, visit: &mut dyn FnMut(&str, &mut LoraLinear<B>)) {
        each_layer!(self, visit, layers_mut, &mut);
    }

    fn visit_vectors(&self, visit: &mut dyn FnMut(&str, &LoraVector<B>)) {
        each_vector!(self, visit, &);
    }

    fn visit_vectors_mut(&mut self, visit: &mut dyn FnMut(&str, &mut LoraVector<B>)) {
        each_vector!(self, visit, &mut);
    }

    fn target_table(&self) -> &TargetTable {
        lora_targets()
    }
}

impl<B: Backend> WeightHost<B> for LongCatTransformer<B> {
    fn visit_weights(&self, visit: &mut dyn FnMut(&Weight<B>)) {
        self.visit_lora(&mut |_, layer| visit(&layer.weight));
    }

    fn visit_weights_mut(&mut self, visit: &mut dyn FnMut(&mut Weight<B>)) {
        self.visit_lora_mut(&mut |_, layer| visit(&mut layer.weight));
    }
}
