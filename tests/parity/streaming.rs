//! Weights that pass through the device give the latents of those that stay there, bit for bit.
#![allow(missing_docs, clippy::unwrap_used)]

use burn::tensor::{DType, Distribution, Tensor};
use longcat_builtin::builtin_checkpoint;
use longcat_dit::{
    LongCatTransformer, ParallelTransformer, TextCondition, lora_targets, streamed_blocks,
};
use longcat_lora::{Adapter, LoraMerge, LoraOptions, LoraRegistry};
use longcat_video::{Checkpoint, KernelBackend};
use longcat_weights::LoadAs;

/// The built-in transformer with an adapter beside its layers, and so many blocks on the device.
fn model<B: KernelBackend>(
    dtype: DType,
    resident_blocks: Option<usize>,
    device: &B::Device,
) -> LongCatTransformer<B> {
    let root = builtin_checkpoint().unwrap();
    let checkpoint = Checkpoint::open(&root).unwrap();
    let load_as = LoadAs {
        dtype: Some(dtype),
        resident_blocks,
        ..LoadAs::default()
    };
    let mut model = checkpoint.load_transformer(load_as, device).unwrap();
    let file = root.join("lora/cfg_step_lora.safetensors");
    let adapter = Adapter::read(&file, lora_targets()).unwrap();
    let options = LoraOptions {
        dtype: Some(dtype),
        ..LoraOptions::default()
    };
    model.load_adapter("distilled", &adapter, options).unwrap();
    model
}

struct Inputs<B: KernelBackend> {
    latents: Tensor<B, 5>,
    timesteps: Tensor<B, 2>,
    text: TextCondition<B>,
}

fn inputs<B: KernelBackend>(config: &longcat_dit::DitConfig, device: &B::Device) -> Inputs<B> {
    let normal = Distribution::Normal(0.0, 1.0);
    let channels = config.in_channels;
    Inputs {
        latents: Tensor::random([1, channels, 3, 4, 4], normal, (device, DType::F32)),
        timesteps: Tensor::full([1, 3], 700.0, (device, DType::F32)),
        text: TextCondition {
            embeds: Tensor::random(
                [1, 6, config.caption_channels],
                normal,
                (device, DType::F32),
            ),
            mask: None,
        },
    }
}

/// Outputs of a pass, of one over cached conditions, and of one shared by two devices.
fn passes<B: KernelBackend>(
    model: &LongCatTransformer<B>,
    inputs: &Inputs<B>,
    device: &B::Device,
) -> [Vec<u8>; 3] {
    let Inputs {
        latents,
        timesteps,
        text,
    } = inputs;
    let (all, times) = (latents.clone(), timesteps.clone());
    let out = model.forward(all.clone(), times.clone(), text, 0).unwrap();
    let cache = model
        .cache_condition(all.clone().narrow(2, 0, 1), false)
        .unwrap();
    let cached = model
        .forward_cached(all.clone(), times.clone(), text, &cache)
        .unwrap();
    let replicas = [model.clone(), model.clone()];
    let devices = [device.clone(), device.clone()];
    let shared = ParallelTransformer::new(&replicas, &devices).unwrap();
    let shared = shared.forward(all, times, text, 1).unwrap();
    [out, cached, shared].map(|out| out.into_data().as_bytes().to_vec())
}

fn streamed_passes_are_resident_ones<B: KernelBackend>(dtype: DType, device: &B::Device) {
    let resident = model::<B>(dtype, None, device);
    let inputs = inputs(resident.config(), device);
    // Kernels are chosen in the first passes.
    passes(&resident, &inputs, device);
    let expected = passes(&resident, &inputs, device);
    let mut merged = resident.clone();
    merged.merge_adapters().unwrap();
    let merged = passes(&merged, &inputs, device);
    assert!(merged != expected, "the adapter changes nothing");
    let depth = resident.depth();
    for stay in [0, depth / 2] {
        let mut moved = resident.clone();
        moved.move_to_host(&streamed_blocks(depth, stay)).unwrap();
        let loaded = model::<B>(dtype, Some(stay), device);
        for (mut streamed, what) in [(moved, "moved"), (loaded, "loaded")] {
            // Twice: what is left of a pass is no part of the next.
            for _ in 0..2 {
                assert!(
                    passes(&streamed, &inputs, device) == expected,
                    "{what}, {stay} stay"
                );
            }
            streamed.merge_adapters().unwrap();
            assert!(
                passes(&streamed, &inputs, device) == merged,
                "{what}, merged, {stay} stay"
            );
        }
    }
}

#[cfg(feature = "cpu")]
#[test]
fn streamed_passes_are_resident_ones_on_the_cpu() {
    use burn_flex::{Flex, FlexDevice};
    streamed_passes_are_resident_ones::<Flex>(DType::F32, &FlexDevice);
}

#[cfg(feature = "wgpu")]
#[test]
fn streamed_passes_are_resident_ones_on_wgpu() {
    use burn_wgpu::{Wgpu, WgpuDevice};
    streamed_passes_are_resident_ones::<Wgpu>(DType::F32, &WgpuDevice::default());
}

#[cfg(feature = "cuda")]
#[test]
fn streamed_passes_are_resident_ones_on_cuda() {
    use burn_cuda::{Cuda, CudaDevice};
    for dtype in [DType::F32, DType::BF16] {
        streamed_passes_are_resident_ones::<Cuda>(dtype, &CudaDevice::default());
    }
}
