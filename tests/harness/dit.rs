//! The transformer's forward passes, with and without cached keys and values.

use burn::tensor::{DType, Tensor};
use longcat_dit::{DitConfig, Embedded, LongCatTransformer, ParallelTransformer, TextCondition};
use longcat_kernels::KernelBackend;
use longcat_weights::{JsonConfig, WeightFiles};

use crate::case::read_json;
use crate::{Case, Golden};

/// The transformer of a case, with the overrides of its config.
pub(crate) fn load<B: KernelBackend>(
    golden: &Golden,
    case: &Case,
    device: &B::Device,
    dtype: DType,
) -> LongCatTransformer<B> {
    let dir = golden.checkpoint(case).join("dit");
    let path = dir.join("config.json");
    let mut json = read_json(&path).as_object().unwrap().clone();
    if let Some(overrides) = case.param("config_overrides").as_object() {
        json.extend(overrides.clone());
    }
    let config = DitConfig::from_json(JsonConfig::new(path, json)).unwrap();
    let files = WeightFiles::open(&dir).unwrap();
    let (mut model, _) =
        LongCatTransformer::load_with_config(&config, &files, Some(dtype), device).unwrap();
    if case.flag("enable_bsa") {
        model.set_bsa(true).unwrap();
    }
    model
}

/// Timesteps `[B]` or `[B, T]` as `[B, T]`.
pub(crate) fn timesteps<B: KernelBackend>(
    case: &Case,
    frames: usize,
    device: &B::Device,
) -> Tensor<B, 2> {
    match case.input_data("timestep").shape.len() {
        1 => {
            let t: Tensor<B, 1> = case.input("timestep", device);
            t.unsqueeze_dim::<2>(1).repeat_dim(1, frames)
        }
        _ => case.input("timestep", device),
    }
}

pub(crate) fn text<B: KernelBackend>(case: &Case, device: &B::Device) -> TextCondition<B> {
    let embeds: Tensor<B, 4> = case.input("encoder_hidden_states", device);
    let name = "encoder_attention_mask";
    TextCondition {
        embeds: embeds.squeeze_dim(1),
        mask: case.has_input(name).then(|| case.mask(name)),
    }
}

pub(crate) fn forward<B: KernelBackend>(
    golden: &Golden,
    case: &mut Case,
    device: &B::Device,
    dtype: DType,
) {
    let model = load::<B>(golden, case, device, dtype);
    let latents: Tensor<B, 5> = case.input("hidden_states", device);
    let timesteps = timesteps::<B>(case, latents.dims()[2], device);
    let text = text::<B>(case, device);
    let num_cond = case.usize_param("num_cond_latents");

    case.check_tensor("t_emb", model.embed_time(timesteps.clone()));
    let captions = model.embed_caption(text.embeds.clone());
    case.check_tensor::<B, 4>("y_emb", captions.unsqueeze_dim(1));
    let Embedded { tokens, context } = model
        .embed(latents.clone(), timesteps.clone(), &text, num_cond)
        .unwrap();
    case.check_tensor("block0_out", model.blocks()[0].forward(tokens, &context));
    let out = model
        .forward(latents.clone(), timesteps.clone(), &text, num_cond)
        .unwrap();
    case.check_tensor("out", out);

    if !can_be_shared(&model, &latents) {
        return;
    }
    let (replicas, devices) = ([model.clone(), model], [device.clone(), device.clone()]);
    let parallel = ParallelTransformer::new(&replicas, &devices).unwrap();
    let out = parallel
        .forward(latents, timesteps, &text, num_cond)
        .unwrap();
    case.check_tensor("out", out);
}

/// Whether two devices each get frames and heads.
fn can_be_shared<B: KernelBackend>(model: &LongCatTransformer<B>, latents: &Tensor<B, 5>) -> bool {
    latents.dims()[2] > 1 && model.config().num_heads.is_multiple_of(2)
}

pub(crate) fn kv_cache<B: KernelBackend>(
    golden: &Golden,
    case: &mut Case,
    device: &B::Device,
    dtype: DType,
) {
    let model = load::<B>(golden, case, device, dtype);
    let latents: Tensor<B, 5> = case.input("hidden_states", device);
    let timesteps = timesteps::<B>(case, latents.dims()[2], device);
    let text = text::<B>(case, device);
    // In device memory and in host memory.
    for offload in [false, true] {
        let cache = model
            .cache_condition(case.input("cond_latents", device), offload)
            .unwrap();
        for i in 0..cache.depth() {
            let (k, v) = cache.layer(i, device);
            case.check_tensor(&format!("k.{i}"), k);
            case.check_tensor(&format!("v.{i}"), v);
        }
        let out = model
            .forward_cached(latents.clone(), timesteps.clone(), &text, &cache)
            .unwrap();
        case.check_tensor("out", out);
    }

    if !can_be_shared(&model, &latents) {
        return;
    }
    let (replicas, devices) = ([model.clone(), model], [device.clone(), device.clone()]);
    let parallel = ParallelTransformer::new(&replicas, &devices).unwrap();
    let caches = parallel
        .cache_condition(case.input("cond_latents", device), false)
        .unwrap();
    let out = parallel
        .forward_cached(latents, timesteps, &text, &caches)
        .unwrap();
    case.check_tensor("out", out);
}
