//! Clips to latents: files are read by all processors, and small clips of one shape pass through
//! the VAE together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use burn::tensor::DType;
use longcat_kernels::{KernelBackend, Stage, guard};
use longcat_vae::{Tiling, WanVae};
use longcat_video::Checkpoint;
use longcat_weights::{NamedTensor, WeightFiles, write_safetensors};
use rayon::prelude::*;

use super::dataset::{Entry, LatentDataset};
use super::key::Hasher;
use super::plan::{Fitted, Part, Recipe};
use super::shares::{await_files, missing};
use super::vae::encode_batch;
use crate::config::{Take, TrainConfig};
use crate::data::{Bucket, CaptionedClip};
use crate::memory::{ClipsPlan, Room};
use crate::observe::stop;
use crate::{Ranks, TrainError, TrainObserver};

/// Pixels of all frames that pass through the VAE at once, if that is more than one clip.
const PIXELS: usize = 1 << 22;
/// What passes through the VAE at once takes about this long, if that is more than one clip: an
/// interrupt waits for it, and loses it.
const BATCH: Duration = Duration::from_millis(500);
/// Clips whose files are hashed between two looks at the progress.
const HASHED: usize = 64;

/// A part of a clip that the cache lacks.
struct Job {
    /// Number of the clip.
    clip: usize,
    part: Part,
}

pub(super) fn latents<B: KernelBackend>(
    config: &TrainConfig,
    checkpoint: &Checkpoint,
    clips: &[CaptionedClip],
    device: &B::Device,
    ranks: &Ranks,
    observer: &mut dyn TrainObserver,
    interrupt: &AtomicBool,
) -> Result<LatentDataset, TrainError> {
    let recipe = Recipe::new(config, checkpoint)?;
    // Clips whose files cannot be used, by the file of the cache that would hold them.
    let mut broken: HashMap<PathBuf, usize> = HashMap::new();
    let mut parts: Vec<Vec<Part>> = Vec::with_capacity(clips.len());
    for part in clips.chunks(HASHED) {
        observer.caching("names of clips", parts.len(), clips.len());
        let found: Vec<_> = part
            .par_iter()
            .map(|clip| recipe.parts(clip, interrupt))
            .collect();
        for (clip, found) in part.iter().zip(found) {
            parts.push(match found {
                Ok(found) => found,
                Err(error) => {
                    config.data.skip(error.of_clip(&clip.path), observer)?;
                    Vec::new()
                }
            });
        }
    }
    let mut encoder = Encoder::<B> {
        config,
        recipe: &recipe,
        checkpoint,
        clips,
        room: None,
        vae: None,
        together: 1,
        device,
        interrupt,
    };
    // Equal clips have one file.
    let mut seen = BTreeSet::new();
    let all = parts.iter().enumerate().flat_map(|(clip, parts)| {
        let parts = parts.iter().cloned();
        parts.map(move |part| Job { clip, part })
    });
    let all: Vec<Job> = all
        .filter(|job| seen.insert(job.part.path.clone()))
        .collect();
    same_clips(ranks, clips, &parts)?;
    let paths: Vec<&Path> = all.iter().map(|job| job.part.path.as_path()).collect();
    let missing = missing(ranks, "clips", &paths, |path| shape(path).is_some())?;
    let jobs: Vec<&Job> = missing.iter().map(|index| &all[*index]).collect();
    // A clip of which several parts are missing is read once, from its front to its end.
    let of_clips = jobs.chunk_by(|a, b| a.clip == b.clip);
    let of_clips = of_clips.skip(ranks.rank()).step_by(ranks.size());
    let of_clips: Vec<&[&Job]> = of_clips.collect();
    let own: usize = of_clips.iter().map(|jobs| jobs.len()).sum();
    let mut before = all.len() - jobs.len();
    let total = before + own;
    let of_clips = of_clips.into_iter();
    let (long, single): (Vec<&[&Job]>, Vec<&[&Job]>) = of_clips.partition(|jobs| jobs.len() > 1);
    let single: Vec<&Job> = single.into_iter().flatten().copied().collect();
    let single = single.chunks(recipe.clips_at_once());
    let single = single.map(|jobs| (jobs.to_vec(), false));
    let long = long.into_iter();
    let long = long.map(|jobs| (jobs.to_vec(), true));
    let mut failures: Vec<(String, String)> = Vec::new();
    for (jobs, long) in single.chain(long) {
        let mut progress = |done| observer.caching("clips", before + done, total);
        let failed = match long {
            false => encoder.run(&jobs, &mut progress)?,
            true => encoder.run_through(&jobs, &mut progress)?,
        };
        before += jobs.len();
        for (job, error) in failed {
            let clip = &clips[job.clip];
            broken.insert(job.part.path.clone(), job.clip);
            failures.push((name(&job.part), error.to_string()));
            config.data.skip(error.of_clip(&clip.path), observer)?;
        }
    }
    observer.caching("clips", total, total);
    if encoder.vae.take().is_some() {
        B::memory_cleanup(device);
    }
    for (failed, reason) in of_others(ranks, &failures)? {
        let Some(job) = all.iter().find(|job| name(&job.part) == failed) else {
            continue;
        };
        broken.insert(job.part.path.clone(), job.clip);
        let path = clips[job.clip].path.clone();
        config
            .data
            .skip(TrainError::Data { path, reason }, observer)?;
    }
    let unused: BTreeSet<usize> = broken.values().copied().collect();
    let made = jobs.iter().filter(|job| !unused.contains(&job.clip));
    let made = made.map(|job| job.part.path.as_path());
    await_files(ranks, made, |path| shape(path).is_some())?;
    let mut dataset = LatentDataset::default();
    for (number, (clip, parts)) in clips.iter().zip(parts).enumerate() {
        if let Some(other) = parts.iter().find_map(|part| broken.get(&part.path)) {
            if *other != number {
                let reason = format!(
                    "it is the same as {}, which cannot be used",
                    clips[*other].path.display()
                );
                let path = clip.path.clone();
                config
                    .data
                    .skip(TrainError::Data { path, reason }, observer)?;
            }
            continue;
        }
        let apart = match config.data.take {
            Take::Every => 1,
            Take::Start | Take::Random => parts.len().max(1),
        };
        for parts in parts.chunks(apart) {
            dataset.entries.push(entry(number, clip, parts)?);
        }
    }
    Ok(dataset)
}

/// An error on all ranks unless they have the same clips, with the same content and captions.
fn same_clips(
    ranks: &Ranks,
    clips: &[CaptionedClip],
    parts: &[Vec<Part>],
) -> Result<(), TrainError> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let hash = |(clip, parts): (&CaptionedClip, &Vec<Part>)| {
        let what = (&clip.captions, clip.repeats, clip.condition);
        let hash = Hasher::default().part(format!("{what:?}").as_bytes());
        let names = parts.iter().map(name);
        names
            .fold(hash, |hash, name| hash.part(name.as_bytes()))
            .finish()
    };
    let mine: Vec<String> = clips.iter().zip(parts).map(hash).collect();
    let differs = |first: &[u8]| {
        let first = String::from_utf8_lossy(first);
        let first: Vec<&str> = first.lines().collect();
        let other = mine.iter().zip(&first).position(|(a, b)| a != b);
        match other {
            Some(number) => Some(format!(
                "{} has other content or captions there; all ranks need the same files",
                clips[number].path.display()
            )),
            None if mine.len() != first.len() => Some(format!(
                "it finds {} clips and rank 0 {}; all ranks need the same files",
                mine.len(),
                first.len()
            )),
            None => None,
        }
    };
    Ok(ranks.same(mine.join("\n").into_bytes(), differs)?)
}

/// The name of a part's file, which is the same on all hosts.
fn name(part: &Part) -> String {
    let name = part.path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The names of what the other ranks could not encode, and why.
fn of_others(ranks: &Ranks, own: &[(String, String)]) -> Result<Vec<(String, String)>, TrainError> {
    if ranks.size() == 1 {
        return Ok(Vec::new());
    }
    let garbled = |e: serde_json::Error| TrainError::State {
        path: "failures of other ranks".into(),
        reason: e.to_string(),
    };
    let all = ranks.gather(serde_json::to_vec(own).map_err(garbled)?)?;
    let mut others = Vec::new();
    for (rank, list) in all.iter().enumerate() {
        if rank != ranks.rank() {
            let list: Vec<(String, String)> = serde_json::from_slice(list).map_err(garbled)?;
            others.extend(list);
        }
    }
    Ok(others)
}

/// What clips are encoded with.
struct Encoder<'a, B: KernelBackend> {
    config: &'a TrainConfig,
    recipe: &'a Recipe<'a>,
    checkpoint: &'a Checkpoint,
    clips: &'a [CaptionedClip],
    /// Of the device before the VAE came.
    room: Option<Room<'a>>,
    /// Loaded when it is first needed.
    vae: Option<WanVae<B>>,
    /// How many clips pass through it at once.
    together: usize,
    device: &'a B::Device,
    interrupt: &'a AtomicBool,
}

impl<B: KernelBackend> Encoder<'_, B> {
    /// Encodes what fits into memory at once; returns what cannot be used.
    fn run<'j>(
        &mut self,
        jobs: &[&'j Job],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<(&'j Job, TrainError)>, TrainError> {
        progress(0);
        let read: Vec<Result<Fitted, TrainError>> = jobs
            .par_iter()
            .map(|job| {
                let clip = &self.clips[job.clip];
                let mut reader = self.recipe.open(clip)?;
                let part = &job.part;
                self.recipe.read(clip, &mut reader, part, self.interrupt)
            })
            .collect();
        stop(self.interrupt)?;
        let mut buckets: BTreeMap<Bucket, Vec<(usize, Fitted)>> = BTreeMap::new();
        let mut failed = Vec::new();
        for (n, fitted) in read.into_iter().enumerate() {
            match fitted {
                Ok(fitted) => buckets.entry(fitted.bucket).or_default().push((n, fitted)),
                Err(error) => failed.push((jobs[n], error)),
            }
        }
        let mut done = failed.len();
        for (bucket, members) in &buckets {
            let mut left = members.as_slice();
            while !left.is_empty() {
                stop(self.interrupt)?;
                let plan = self.plan(bucket)?;
                let count = plan.at_once.min(left.len());
                let (now, rest) = left.split_at(count);
                left = rest;
                self.encode(jobs, bucket, now, plan.vae.tiling)?;
                done += count;
                progress(done);
            }
        }
        Ok(failed)
    }

    /// Encodes parts of one clip, in their order; returns what cannot be used.
    fn run_through<'j>(
        &mut self,
        jobs: &[&'j Job],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<(&'j Job, TrainError)>, TrainError> {
        let (clip, interrupt) = (&self.clips[jobs[0].clip], self.interrupt);
        let mut reader = match self.recipe.open(clip) {
            Ok(reader) => reader,
            Err(error) => return Ok(vec![(jobs[0], error)]),
        };
        let mut members: Vec<(usize, Fitted)> = Vec::new();
        for (n, job) in jobs.iter().enumerate() {
            progress(n - members.len());
            match self.recipe.read(clip, &mut reader, &job.part, interrupt) {
                Ok(fitted) => members.push((n, fitted)),
                Err(TrainError::Interrupted) => return Err(TrainError::Interrupted),
                Err(error) => return Ok(vec![(*job, error)]),
            }
            let bucket = members[0].1.bucket;
            let plan = self.plan(&bucket)?;
            if n + 1 == jobs.len() || members.len() >= plan.at_once {
                self.encode(jobs, &bucket, &members, plan.vae.tiling)?;
                members.clear();
            }
        }
        Ok(Vec::new())
    }

    /// How clips of a bucket pass through the VAE, and how many of them at once.
    fn plan(&mut self, bucket: &Bucket) -> Result<ClipsPlan, TrainError> {
        let room = match self.room.take() {
            Some(room) => room,
            None => Room::now::<B>(self.config, self.checkpoint, self.device)?,
        };
        let pixels = bucket.frames * bucket.size.width * bucket.size.height;
        let most = self.together.min(PIXELS / pixels.max(1)).max(1);
        self.room.insert(room).clips(bucket, most)
    }

    fn encode(
        &mut self,
        jobs: &[&Job],
        bucket: &Bucket,
        members: &[(usize, Fitted)],
        tiling: Option<Tiling>,
    ) -> Result<(), TrainError> {
        let vae = match self.vae.take() {
            Some(vae) => vae,
            None => self.checkpoint.load_vae::<B>(DType::F32, self.device)?,
        };
        let vae = self.vae.insert(vae);
        let start = Instant::now();
        let encoded = guard::<B, _, _>(from_ref(self.device), Stage::EncodingFrames, || {
            encode_batch(vae, members, tiling, self.device, self.interrupt)
        })?;
        let taken = start.elapsed() / members.len() as u32;
        let fit = BATCH.as_secs_f64() / taken.as_secs_f64().max(1e-6);
        self.together = (fit as usize).clamp(1, 2 * members.len());
        let written: Result<Vec<()>, TrainError> = members
            .par_iter()
            .zip(encoded)
            .map(|((n, fitted), tensors)| {
                let Job { clip, part } = jobs[*n];
                write(part, &tensors, &self.clips[*clip], bucket, fitted.length)
            })
            .collect();
        written.map(|_| ())
    }
}

fn write(
    part: &Part,
    tensors: &[NamedTensor],
    clip: &CaptionedClip,
    bucket: &Bucket,
    length: Option<usize>,
) -> Result<(), TrainError> {
    let origin = clip.path.to_string_lossy().into_owned();
    let mut metadata = BTreeMap::from([
        ("clip".to_string(), origin),
        ("bucket".to_string(), bucket.to_string()),
        ("start".to_string(), part.start.to_string()),
    ]);
    if let Some(length) = length {
        metadata.insert("length".to_string(), length.to_string());
    }
    Ok(write_safetensors(&part.path, tensors, &metadata)?)
}

fn entry(number: usize, clip: &CaptionedClip, parts: &[Part]) -> Result<Entry, TrainError> {
    let path = &parts[0].path;
    let (shape, files) = shape(path).ok_or_else(|| TrainError::Data {
        path: path.clone(),
        reason: "the cached latents cannot be read back".into(),
    })?;
    let metadata = files.metadata();
    Ok(Entry {
        number,
        clip: clip.path.clone(),
        latents: parts.iter().map(|part| part.path.clone()).collect(),
        shape,
        bucket: metadata.get("bucket").cloned().unwrap_or_default(),
        length: metadata.get("length").and_then(|text| text.parse().ok()),
        captions: clip.captions.clone(),
        repeats: clip.repeats,
        condition: clip.condition,
    })
}

/// Shape `[C, T, H, W]` of cached latents, and their file; `None` where it is absent or damaged.
fn shape(path: &Path) -> Option<([usize; 4], WeightFiles)> {
    let files = WeightFiles::open(path).ok()?;
    let mean = files.info("mean")?;
    files.info("deviation").filter(|d| d.shape == mean.shape)?;
    let shape: [usize; 5] = mean.shape.try_into().ok()?;
    Some(([shape[1], shape[2], shape[3], shape[4]], files))
}
