//! Clips to latents: files are read by all processors, and small clips of one shape pass through
//! the VAE together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use burn::tensor::{DType, Tensor, TensorData};
use longcat_kernels::KernelBackend;
use longcat_vae::{VaeOptions, WanVae};
use longcat_video::media::{ReadOptions, read_video};
use longcat_video::{Checkpoint, PixelFrames, VideoError, VideoSize, refine_start};
use longcat_weights::{NamedTensor, WeightFiles, write_safetensors};
use rayon::prelude::*;

use super::dataset::{Entry, LatentDataset};
use super::encode::{named, stop};
use super::key::{Hasher, content, fingerprint};
use crate::config::{DataConfig, TrainConfig};
use crate::data::{Bucket, CaptionedClip};
use crate::{TrainError, TrainObserver};

/// Bytes of decoded clips that are held at once, if that is more than one clip.
const HELD: usize = 1 << 28;
/// Pixels of all frames that pass through the VAE at once, if that is more than one clip.
const PIXELS: usize = 1 << 22;

/// Settings that decide what the latents of a clip are.
struct Recipe<'a> {
    data: &'a DataConfig,
    /// Whether clips come with a first-stage clip, for refining.
    refine: bool,
    /// Settings and VAE as text.
    key: String,
    folder: PathBuf,
}

/// A clip read from disk and fitted to its bucket.
struct Fitted {
    bucket: Bucket,
    pixels: PixelFrames,
    source: Option<PixelFrames>,
}

pub(super) fn latents<B: KernelBackend>(
    config: &TrainConfig,
    checkpoint: &Checkpoint,
    clips: &[CaptionedClip],
    device: &B::Device,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<LatentDataset, TrainError> {
    let recipe = Recipe::new(config, checkpoint)?;
    let mut vae = None;
    let mut dataset = LatentDataset::default();
    let chunk = recipe.clips_at_once();
    for (i, part) in clips.chunks(chunk).enumerate() {
        stop(interrupt)?;
        observer.caching("clips", i * chunk, clips.len());
        let paths: Vec<_> = part.par_iter().map(|clip| recipe.path(clip)).collect();
        let mut outcomes: Vec<Result<PathBuf, TrainError>> = paths;
        let missing: Vec<usize> = (0..part.len())
            .filter(|n| matches!(&outcomes[*n], Ok(path) if latent_shape(path).is_none()))
            .collect();
        let read: Vec<(usize, Result<Fitted, TrainError>)> = missing
            .into_par_iter()
            .map(|n| (n, recipe.read(&part[n])))
            .collect();
        let mut buckets: BTreeMap<Bucket, Vec<(usize, Fitted)>> = BTreeMap::new();
        for (n, fitted) in read {
            match fitted {
                Ok(fitted) => buckets.entry(fitted.bucket).or_default().push((n, fitted)),
                Err(error) => outcomes[n] = Err(error),
            }
        }
        if !buckets.is_empty() && vae.is_none() {
            vae = Some(checkpoint.load_vae::<B>(DType::F32, device)?);
        }
        for (bucket, members) in &buckets {
            let Some(vae) = &vae else {
                unreachable!("it was just loaded")
            };
            let pixels = bucket.frames * bucket.size.width * bucket.size.height;
            for members in members.chunks((PIXELS / pixels).max(1)) {
                stop(interrupt)?;
                let encoded = encode_batch(vae, members, device)?;
                let written: Vec<(usize, Result<(), TrainError>)> = members
                    .par_iter()
                    .zip(encoded)
                    .map(|((n, _), tensors)| {
                        let written = match &outcomes[*n] {
                            Ok(path) => write(path, &tensors, &part[*n], bucket),
                            Err(_) => Ok(()),
                        };
                        (*n, written)
                    })
                    .collect();
                for (n, result) in written {
                    if let Err(error) = result {
                        outcomes[n] = Err(error);
                    }
                }
            }
        }
        for (n, (clip, outcome)) in part.iter().zip(outcomes).enumerate() {
            match outcome.and_then(|path| entry(i * chunk + n, clip, path)) {
                Ok(entry) => dataset.entries.push(entry),
                Err(error) => config.data.skip(error.of_clip(&clip.path), observer)?,
            }
        }
    }
    observer.caching("clips", clips.len(), clips.len());
    if vae.take().is_some() {
        B::memory_cleanup(device);
    }
    Ok(dataset)
}

impl<'a> Recipe<'a> {
    fn new(config: &'a TrainConfig, checkpoint: &Checkpoint) -> Result<Self, TrainError> {
        let folder = config.cache.path.join("latents");
        std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
        let model = fingerprint(&checkpoint.root().join("vae"))?;
        let data = &config.data;
        // Spelt as in every cache so far.
        let size = |s: &VideoSize| format!("Size {{ width: {}, height: {} }}", s.width, s.height);
        let sizes: Vec<String> = data.sizes.iter().map(size).collect();
        let (sizes, fps) = (sizes.join(", "), data.fps.unwrap_or(0.0));
        let settings = format!("[{sizes}] {:?} {fps}", data.frames);
        Ok(Self {
            data,
            refine: config.objective.threshold().is_some(),
            key: format!("{settings} {model}"),
            folder,
        })
    }

    /// As many clips as fit in [`HELD`], by the largest that the settings allow.
    fn clips_at_once(&self) -> usize {
        let pixels = self.data.sizes.iter().map(|s| s.width * s.height);
        let frames = self.data.frames.iter().copied().max().unwrap_or(1);
        let bytes = 3 * frames * pixels.max().unwrap_or(1);
        (HELD / bytes.max(1)).clamp(1, 1024)
    }

    /// Where the latents of a clip are, once they are there.
    fn path(&self, clip: &CaptionedClip) -> Result<PathBuf, TrainError> {
        let mut hasher = Hasher::default()
            .part(b"latents 2")
            .part(content(&clip.path)?.as_bytes())
            .part(self.key.as_bytes());
        if self.refine {
            hasher = hasher.part(content(source(clip)?)?.as_bytes());
        }
        Ok(self.folder.join(format!("{}.safetensors", hasher.finish())))
    }

    fn read(&self, clip: &CaptionedClip) -> Result<Fitted, TrainError> {
        let fitted = clip.fitted(self.data)?;
        let source = match self.refine {
            true => {
                let video = read_video(source(clip)?, &ReadOptions::default())?;
                Some(PixelFrames::from_video(video)?)
            }
            false => None,
        };
        Ok(Fitted {
            bucket: fitted.bucket,
            pixels: PixelFrames::from_images(&fitted.frames)?,
            source,
        })
    }
}

fn source(clip: &CaptionedClip) -> Result<&Path, TrainError> {
    clip.source.as_deref().ok_or_else(|| TrainError::Data {
        path: clip.path.clone(),
        reason: "objective.refine needs the first-stage clip, as `source` in the list".into(),
    })
}

/// Latents of clips of one bucket.
fn encode_batch<B: KernelBackend>(
    vae: &WanVae<B>,
    members: &[(usize, Fitted)],
    device: &B::Device,
) -> Result<Vec<Vec<NamedTensor>>, TrainError> {
    let options = VaeOptions {
        // One clip is cut in time, so that memory stays small; several are small.
        latent_frames_per_chunk: if members.len() > 1 { usize::MAX } else { 1 },
        ..VaeOptions::default()
    };
    let encode = |clips: Vec<Tensor<B, 5>>| {
        let posterior = vae.encode_with(Tensor::cat(clips, 0), &options, &mut |_| {
            std::ops::ControlFlow::Continue(())
        });
        posterior.map_err(VideoError::from)
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

fn write(
    path: &Path,
    tensors: &[NamedTensor],
    clip: &CaptionedClip,
    bucket: &Bucket,
) -> Result<(), TrainError> {
    let origin = clip.path.to_string_lossy().into_owned();
    let metadata = BTreeMap::from([
        ("clip".to_string(), origin),
        ("bucket".to_string(), bucket.to_string()),
    ]);
    Ok(write_safetensors(path, tensors, &metadata)?)
}

fn entry(number: usize, clip: &CaptionedClip, path: PathBuf) -> Result<Entry, TrainError> {
    let shape = latent_shape(&path).ok_or_else(|| TrainError::Data {
        path: path.clone(),
        reason: "the cached latents cannot be read back".into(),
    })?;
    Ok(Entry {
        number,
        clip: clip.path.clone(),
        latents: path,
        shape,
        caption: clip.caption.clone(),
        repeats: clip.repeats,
        condition: clip.condition,
    })
}

/// Shape `[C, T, H, W]` of cached latents; `None` where the file is absent or damaged.
fn latent_shape(path: &Path) -> Option<[usize; 4]> {
    let files = WeightFiles::open(path).ok()?;
    let mean = files.info("mean")?;
    files.info("deviation").filter(|d| d.shape == mean.shape)?;
    let shape: [usize; 5] = mean.shape.try_into().ok()?;
    Some([shape[1], shape[2], shape[3], shape[4]])
}
