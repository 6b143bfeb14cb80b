//! Weights that pass through the device give the latents of those that stay there, bit for bit.
#![allow(missing_docs, clippy::unwrap_used)]

use burn::tensor::{DType, Distribution, Tensor, TensorData};
use longcat_builtin::builtin_checkpoint;
use longcat_dit::{
    LongCatTransformer, ParallelTransformer, TextCondition, lora_targets, streamed_blocks,
};
use longcat_lora::{Adapter, LoraMerge, LoraOptions, LoraRegistry};
use longcat_video::{
    Checkpoint, KernelBackend, Pipeline, PipelineOptions, Sampling, SeededNoise, Silent,
    TextToVideoRequest,
};
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

#[derive(Clone)]
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

/// Outputs of a pass and of one over cached conditions.
fn passes<B: KernelBackend>(model: &LongCatTransformer<B>, inputs: &Inputs<B>) -> [Vec<u8>; 2] {
    let Inputs {
        latents,
        timesteps,
        text,
    } = inputs.clone();
    let out = model
        .forward(latents.clone(), timesteps.clone(), &text, 0)
        .unwrap();
    let conditions = latents.clone().narrow(2, 0, 1);
    let cache = model.cache_condition(conditions, false).unwrap();
    let cached = model
        .forward_cached(latents, timesteps, &text, &cache)
        .unwrap();
    [out, cached].map(|out| out.into_data().as_bytes().to_vec())
}

/// Output of a pass that a device makes in two roles.
fn shared<B: KernelBackend>(
    model: &LongCatTransformer<B>,
    inputs: &Inputs<B>,
    device: &B::Device,
) -> TensorData {
    let Inputs {
        latents,
        timesteps,
        text,
    } = inputs.clone();
    let replicas = [model.clone(), model.clone()];
    let devices = [device.clone(), device.clone()];
    let parallel = ParallelTransformer::new(&replicas, &devices).unwrap();
    let out = parallel.forward(latents, timesteps, &text, 1).unwrap();
    out.into_data()
}

/// The model with so many blocks on the device: moved to the host, or loaded there.
fn streamed<B: KernelBackend>(
    resident: &LongCatTransformer<B>,
    dtype: DType,
    device: &B::Device,
) -> [(&'static str, LongCatTransformer<B>); 2] {
    let depth = resident.depth();
    let mut moved = resident.clone();
    moved.move_to_host(&streamed_blocks(depth, 0)).unwrap();
    let loaded = model::<B>(dtype, Some(depth / 2), device);
    [("moved", moved), ("half of it loaded", loaded)]
}

fn streamed_passes_are_resident_ones<B: KernelBackend>(dtype: DType, device: &B::Device) {
    let resident = model::<B>(dtype, None, device);
    let inputs = inputs(resident.config(), device);
    // Kernels are chosen in the first passes.
    passes(&resident, &inputs);
    let expected = passes(&resident, &inputs);
    for (what, streamed) in streamed(&resident, dtype, device) {
        // Twice: what is left of a pass is no part of the next.
        for _ in 0..2 {
            assert!(passes(&streamed, &inputs) == expected, "{what}");
        }
    }
}

/// Several roles of a device, and merging into matrices of either kind.
fn the_rest_is_the_same<B: KernelBackend>(dtype: DType, device: &B::Device) {
    let mut resident = model::<B>(dtype, None, device);
    let inputs = inputs(resident.config(), device);
    let streamed = streamed(&resident, dtype, device);
    let expected = shared(&resident, &inputs, device);
    resident.merge_adapters().unwrap();
    let merged = passes(&resident, &inputs);
    for (what, mut streamed) in streamed {
        assert!(shared(&streamed, &inputs, device) == expected, "{what}");
        assert!(passes(&streamed, &inputs) != merged, "{what}, not merged");
        streamed.merge_adapters().unwrap();
        assert!(passes(&streamed, &inputs) == merged, "{what}, merged");
    }
}

/// Latents of a short video that these devices make, with so many blocks that stay there.
fn latents<B: KernelBackend>(
    devices: &[B::Device],
    guidance: f64,
    resident_blocks: Option<usize>,
) -> Vec<u8> {
    let request = TextToVideoRequest {
        frames: Some(9),
        sampling: Sampling {
            steps: 2,
            guidance,
            ..Sampling::standard()
        },
        ..TextToVideoRequest::new("a red circle")
    };
    let options = PipelineOptions {
        resident_blocks,
        ..PipelineOptions::default()
    };
    let checkpoint = builtin_checkpoint().unwrap();
    let mut pipeline = Pipeline::<B>::open(&checkpoint, options, &devices[0]).unwrap();
    pipeline.denoise_on(&devices[1..]).unwrap();
    let made = pipeline.text_to_video(&request, &mut SeededNoise::new(3), &mut Silent);
    made.unwrap().latents.into_data().as_bytes().to_vec()
}

/// From the prompt to the latents, on one device or several.
fn a_streaming_pipeline_makes_the_same_latents<B: KernelBackend>(
    devices: &[B::Device],
    guidance: f64,
) {
    // Kernels are chosen in the first run.
    latents::<B>(devices, guidance, None);
    let expected = latents::<B>(devices, guidance, None);
    for resident in [0, 4] {
        let found = latents::<B>(devices, guidance, Some(resident));
        assert!(found == expected, "{resident} blocks, guidance {guidance}");
    }
}

#[test]
fn streaming_pipelines_make_the_same_latents_on_the_cpu() {
    use burn_flex::{Flex, FlexDevice};
    a_streaming_pipeline_makes_the_same_latents::<Flex>(&[FlexDevice], 1.0);
    // Two devices share the frames, or take a pass each.
    for guidance in [1.0, 4.0] {
        a_streaming_pipeline_makes_the_same_latents::<Flex>(&[FlexDevice; 2], guidance);
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn streaming_pipelines_make_the_same_latents_on_wgpu() {
    use burn_wgpu::{Wgpu, WgpuDevice};
    a_streaming_pipeline_makes_the_same_latents::<Wgpu>(&[WgpuDevice::default()], 1.0);
}

#[test]
fn streamed_passes_are_resident_ones_on_the_cpu() {
    use burn_flex::{Flex, FlexDevice};
    streamed_passes_are_resident_ones::<Flex>(DType::F32, &FlexDevice);
    the_rest_is_the_same::<Flex>(DType::F32, &FlexDevice);
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
        the_rest_is_the_same::<Cuda>(dtype, &CudaDevice::default());
    }
}
