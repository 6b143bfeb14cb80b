//! Latents of clips in memory.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use burn::tensor::{DType, Tensor, TensorData};
use longcat_kernels::KernelBackend;
use longcat_vae::{Tiling, VaeError, VaeOptions, WanVae};
use longcat_video::{VideoError, refine_start};
use longcat_weights::NamedTensor;

use super::encode::named;
use super::plan::Fitted;
use crate::TrainError;
use crate::observe::stop;

/// Latents of clips of one bucket, in tiles where there are some.
///
/// # Errors
/// [`TrainError::Interrupted`], and what the VAE reports.
pub(super) fn encode_batch<B: KernelBackend>(
    vae: &WanVae<B>,
    members: &[(usize, Fitted)],
    tiling: Option<Tiling>,
    device: &B::Device,
    interrupt: &AtomicBool,
) -> Result<Vec<Vec<NamedTensor>>, TrainError> {
    let options = VaeOptions {
        // One clip is cut in time, so that memory stays small; several are small.
        latent_frames_per_chunk: if members.len() > 1 { usize::MAX } else { 1 },
        tiling,
        ..VaeOptions::default()
    };
    let encode = |clips: Vec<Tensor<B, 5>>| {
        let mut going_on = |_| match stop(interrupt) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        match vae.encode_with(Tensor::cat(clips, 0), &options, &mut going_on) {
            Err(VaeError::Cancelled) => Err(TrainError::Interrupted),
            other => other.map_err(|e| VideoError::from(e).into()),
        }
    };
    let clips = members.iter().map(|(_, m)| m.pixels.to_tensor(device));
    let posterior = encode(clips.collect())?;
    let mean = vae.normalize(posterior.mean);
    let std = &vae.config().latents_std;
    let std = TensorData::new(std.clone(), [1, std.len(), 1, 1, 1]);
    let deviation =
        (posterior.logvar * 0.5).exp() / Tensor::<B, 5>::from_data(std, (device, DType::F32));
    let shape = mean.dims();
    let mut parts = vec![("mean", mean), ("deviation", deviation)];
    if members.iter().all(|(_, m)| m.source.is_some()) {
        let per_latent = vae.config().scale_factor_temporal;
        let start = |(_, m): &(usize, Fitted)| {
            let size = m.bucket.size;
            let video = m.source.as_ref()?;
            let spatial_only = 2 * video.len() > m.bucket.frames;
            Some(refine_start(video, size, spatial_only, per_latent, device))
        };
        let upsampled = encode(members.iter().filter_map(start).collect())?;
        let upsampled = vae.normalize(upsampled.mean);
        if upsampled.dims() != shape {
            return Err(TrainError::Shape {
                input: "upsampled first-stage latents",
                found: upsampled.dims().to_vec(),
                expected: format!(
                    "{shape:?} like the clip is needed: it must hold twice the frames of its \
                     source, then its last frame until the latents are a multiple of 4"
                ),
            });
        }
        parts.push(("source", upsampled));
    }
    let mut files: Vec<Vec<NamedTensor>> = members.iter().map(|_| Vec::new()).collect();
    for (name, tensor) in parts {
        let whole = named(name, tensor)?.data;
        let per_clip = whole.num_elements() / members.len();
        let values: Vec<f32> = whole.iter().collect();
        let [_, c, t, h, w] = shape;
        for (file, values) in files.iter_mut().zip(values.chunks(per_clip)) {
            file.push(NamedTensor {
                name: name.to_string(),
                data: TensorData::new(values.to_vec(), [1, c, t, h, w]),
            });
        }
    }
    Ok(files)
}
