//! The VAE's encoder and decoder.

use burn::tensor::{DType, Tensor};
use longcat_kernels::KernelBackend;
use longcat_vae::WanVae;

use crate::{Case, Golden};

fn load<B: KernelBackend>(golden: &Golden, case: &Case, device: &B::Device) -> WanVae<B> {
    WanVae::load(&golden.checkpoint(case).join("vae"), DType::F32, device).unwrap()
}

pub(crate) fn encode<B: KernelBackend>(golden: &Golden, case: &mut Case, device: &B::Device) {
    let vae = load::<B>(golden, case, device);
    let posterior = vae.encode(case.input("video", device)).unwrap();
    case.check_tensor("latents", vae.normalize(posterior.mean.clone()));
    case.check_tensor("mean", posterior.mean);
    case.check_tensor("logvar", posterior.logvar);
}

pub(crate) fn decode<B: KernelBackend>(golden: &Golden, case: &mut Case, device: &B::Device) {
    let vae = load::<B>(golden, case, device);
    let video = vae.decode(case.input("latents", device)).unwrap();
    case.check_tensor("frames", unit_frames(video.clone()));
    case.check_tensor("video", video);
}

/// Pixels `[B, 3, F, H, W]` in [-1, 1] to `[B, F, H, W, 3]` in [0, 1].
pub(crate) fn unit_frames<B: KernelBackend>(video: Tensor<B, 5>) -> Tensor<B, 5> {
    (video.permute([0, 2, 3, 4, 1]) * 0.5 + 0.5).clamp(0.0, 1.0)
}
