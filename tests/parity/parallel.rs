//! Several devices give the videos of one.
#![allow(missing_docs, clippy::unwrap_used)]

use burn::tensor::{DType, Distribution, Tensor, TensorData};
use longcat_builtin::builtin_checkpoint;
use longcat_dit::{LongCatTransformer, ParallelTransformer, TextCondition};
use longcat_video::{
    Checkpoint, ContinuationRequest, Generated, KernelBackend, LatentDraw, Pipeline,
    PipelineOptions, PixelFrames, RefineRequest, Sampling, SeededNoise, Silent, TextToVideoRequest,
};

/// The built-in model on these devices.
fn pipeline<B: KernelBackend>(devices: &[B::Device]) -> Pipeline<B> {
    let checkpoint = builtin_checkpoint().unwrap();
    let mut pipeline =
        Pipeline::open(&checkpoint, PipelineOptions::default(), &devices[0]).unwrap();
    pipeline.denoise_on(&devices[1..]).unwrap();
    pipeline
}

fn sampling(guidance: f64) -> Sampling {
    Sampling {
        steps: 4,
        guidance,
        ..Sampling::standard()
    }
}

fn prompts() -> Vec<String> {
    [
        "a green star moves up",
        "a blue ring rotates on a white background",
    ]
    .map(String::from)
    .to_vec()
}

fn from_text<B: KernelBackend>(devices: &[B::Device], guidance: f64) -> Generated<B> {
    let request = TextToVideoRequest {
        prompts: prompts(),
        sampling: sampling(guidance),
        ..TextToVideoRequest::new("")
    };
    pipeline::<B>(devices)
        .text_to_video(&request, &mut SeededNoise::new(7), &mut Silent)
        .unwrap()
}

/// A video to go on from.
fn frames<B: KernelBackend>(device: &B::Device) -> PixelFrames {
    let devices = [device.clone()];
    let made = from_text::<B>(&devices, 1.0);
    let first = made.latents.narrow(0, 0, 1);
    let mut frames = pipeline::<B>(&devices).decode(first, &mut Silent).unwrap();
    frames.swap_remove(0)
}

/// Sums are taken in another order, nothing else differs.
fn assert_same<B: KernelBackend>(one: &Tensor<B, 5>, several: Tensor<B, 5>, what: &str) {
    let values = |x: Tensor<B, 5>| -> Vec<f32> {
        let data: TensorData = x.into_data();
        data.iter::<f32>().collect()
    };
    let pairs = values(one.clone()).into_iter().zip(values(several));
    let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 2e-3, "{what}: {difference}");
}

fn shared_prompts<B: KernelBackend>(groups: &[Vec<B::Device>]) {
    for guidance in [4.0, 1.0] {
        let one = from_text::<B>(&groups[0][..1], guidance).latents;
        for devices in groups {
            let several = from_text::<B>(devices, guidance).latents;
            let what = format!("{} devices, guidance {guidance}", devices.len());
            assert_same(&one, several, &what);
        }
    }
}

/// Two of five latent frames are conditions: of four devices, the first one has nothing else.
fn shared_continuations<B: KernelBackend>(groups: &[Vec<B::Device>]) {
    let video = frames::<B>(&groups[0][0]);
    let go_on = |devices: &[B::Device], guidance: f64, kv_cache: bool| {
        let request = ContinuationRequest {
            prompts: prompts(),
            sampling: sampling(guidance),
            latent_draw: LatentDraw::Mode,
            kv_cache,
            enhance_hf: Some(false),
            ..ContinuationRequest::new(video.clone(), "")
        };
        let mut noise = SeededNoise::new(8);
        let made = pipeline::<B>(devices).continue_video(&request, &mut noise, &mut Silent);
        made.unwrap().latents
    };
    for (guidance, kv_cache) in [(4.0, false), (4.0, true), (1.0, false), (1.0, true)] {
        let one = go_on(&groups[0][..1], guidance, kv_cache);
        for devices in groups {
            // Three frames of noise are too few for four devices, but not for two of each pass.
            if kv_cache && devices.len() > 3 && guidance == 1.0 {
                continue;
            }
            let several = go_on(devices, guidance, kv_cache);
            let count = devices.len();
            let what = format!("{count} devices, guidance {guidance}, cache {kv_cache}");
            assert_same(&one, several, &what);
        }
    }
}

/// Block-sparse attention selects the same blocks.
fn shared_refining<B: KernelBackend>(groups: &[Vec<B::Device>]) {
    let video = frames::<B>(&groups[0][0]);
    let refine = |devices: &[B::Device]| {
        let request = RefineRequest {
            steps: 6,
            latent_draw: LatentDraw::Mode,
            ..RefineRequest::new(video.clone(), &prompts()[0])
        };
        let made = pipeline::<B>(devices).with_refinement(|pipeline| {
            pipeline.refine(&request, &mut SeededNoise::new(9), &mut Silent)
        });
        made.unwrap().generated.latents
    };
    let one = refine(&groups[0][..1]);
    for devices in groups {
        assert_same(&one, refine(devices), &format!("{} devices", devices.len()));
    }
}

/// Heads that are exchanged in groups, one of which arrives while another is attended to, give the same bits as
/// all at once: whole clips, with condition frames, with a cache of them, and with block-sparse attention. The model
/// computes in `dtype`, or as its weights are stored.
fn groups_give_the_same_bits<B: KernelBackend>(devices: &[B::Device], dtype: Option<DType>) {
    let checkpoint = Checkpoint::open(builtin_checkpoint().unwrap()).unwrap();
    let load = |device| checkpoint.load_transformer(dtype, device);
    let replicas = devices.iter().map(load).collect::<Result<Vec<_>, _>>();
    let mut replicas: Vec<LongCatTransformer<B>> = replicas.unwrap();
    let first = &devices[0];
    let config = replicas[0].config().clone();
    let normal = Distribution::Normal(0.0, 1.0);
    let options = (first, DType::F32);
    // Four chunks of sparse attention, two of them cut off.
    let latents = Tensor::<B, 5>::random([2, config.in_channels, 6, 8, 16], normal, options);
    let timesteps = Tensor::full([2, 6], 700.0, options);
    let text = TextCondition {
        embeds: Tensor::random([2, 6, config.caption_channels], normal, options),
        mask: None,
    };
    for bsa in [false, true] {
        for replica in &mut replicas {
            replica.set_bsa(bsa).unwrap();
        }
        let made = |groups: usize| {
            let model = ParallelTransformer::new(&replicas, devices).unwrap();
            let model = model.with_groups(groups);
            let pass = |conditions: usize| {
                let (latents, timesteps) = (latents.clone(), timesteps.clone());
                model.forward(latents, timesteps, &text, conditions)
            };
            let conditions = latents.clone().narrow(2, 0, 1);
            let caches = model.cache_condition(conditions, false).unwrap();
            let cached = model.forward_cached(latents.clone(), timesteps.clone(), &text, &caches);
            [pass(0), pass(1), cached].map(|out| out.unwrap().into_data())
        };
        // Kernels are chosen in the first passes.
        made(2);
        let at_once = made(1);
        for groups in [2, 100] {
            for (found, expected) in made(groups).iter().zip(&at_once) {
                assert!(found == expected, "{groups} groups, sparse {bsa}");
            }
        }
    }
}

/// One device in several roles: what is exchanged is the same as between several.
#[cfg(feature = "cpu")]
mod cpu {
    use burn_flex::{Flex, FlexDevice};

    fn groups() -> [Vec<FlexDevice>; 2] {
        [2, 4].map(|count| vec![FlexDevice; count])
    }

    #[test]
    fn shared_prompts_give_the_same_videos() {
        super::shared_prompts::<Flex>(&groups());
    }

    #[test]
    fn shared_continuations_give_the_same_videos() {
        super::shared_continuations::<Flex>(&groups());
    }

    #[test]
    fn shared_refining_gives_the_same_videos() {
        super::shared_refining::<Flex>(&groups());
    }

    #[test]
    fn groups_of_heads_give_the_same_bits() {
        super::groups_give_the_same_bits::<Flex>(&[FlexDevice; 2], Some(super::DType::F32));
    }

    #[test]
    fn heads_that_cannot_be_dealt_out_are_refused_before_anything_is_loaded() {
        let checkpoint = super::builtin_checkpoint().unwrap();
        let options = super::PipelineOptions::default();
        let mut pipeline =
            super::Pipeline::<Flex>::open(&checkpoint, options, &FlexDevice).unwrap();
        let text = pipeline
            .denoise_on(&[FlexDevice; 2])
            .unwrap_err()
            .to_string();
        assert!(text.contains("3 devices") && text.contains('4'), "{text}");
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use burn_cuda::{Cuda, CudaDevice};

    #[test]
    fn one_gpu_in_two_roles_gives_the_same_bits_by_groups() {
        let devices = [CudaDevice::new(0), CudaDevice::new(0)];
        super::groups_give_the_same_bits::<Cuda>(&devices, None);
    }

    /// Needs two GPUs and NCCL.
    #[test]
    fn two_gpus_give_the_videos_of_one() {
        let groups = [vec![CudaDevice::new(0), CudaDevice::new(1)]];
        super::shared_prompts::<Cuda>(&groups);
        super::shared_continuations::<Cuda>(&groups);
        super::shared_refining::<Cuda>(&groups);
    }
}
