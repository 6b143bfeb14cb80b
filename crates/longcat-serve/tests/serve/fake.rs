//! A studio without a model: it checks as the real one does, and makes videos of coloured noise in no time.
//!
//! Prompts say what goes wrong: `panic`, `out of memory`, `refuse`, and `slow` and `long check` take
//! seconds.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use longcat_media::{VideoFrames, VideoSize, VideoSpec, WriteOptions, create_video};
use longcat_serve::{
    About, AdapterReport, Defaults, InputKind, MakeError, Maker, Mode, Order, Planned,
    PulledAdapter, Refusal, Studio, Watch,
};

/// What it takes to make videos.
#[derive(Debug, Clone)]
pub struct Fake {
    /// For each step.
    pub pause: Duration,
    /// Workers.
    pub devices: usize,
    /// A file that gets a line for each video that is begun and made.
    pub log: Option<PathBuf>,
    /// Whether it accepts nothing.
    pub refuses: bool,
    /// Whether it goes on after a failure of its device.
    pub outlives_faults: bool,
    /// A folder of what was pulled, `OWNER/NAME/FILE`.
    pub pulled: Option<PathBuf>,
}

/// The files in a folder and in those in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = paths.map(|entry| entry.path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .collect()
}

impl Studio for Fake {
    fn about(&self) -> About {
        let size = VideoSize::new(64, 64);
        About {
            version: "0.0.0".into(),
            model: "fake".into(),
            devices: (0..self.devices).map(|i| format!("fake:{i}")).collect(),
            dtype: "u8".into(),
            sizes: vec![VideoSize::new(96, 64), size, VideoSize::new(64, 96)],
            distill: true,
            refine: true,
            defaults: Defaults {
                size,
                frames: 17,
                fps: 15.0,
                cond_frames: 5,
                steps: 8,
                guidance: 4.0,
                distill_steps: 4,
                distill_guidance: 1.0,
            },
            size_multiple: 16,
            frames_multiple: 4,
        }
    }

    fn check(&self, order: &Order) -> Result<Planned, Refusal> {
        let settings = &order.settings;
        if self.refuses || settings.prompts.iter().any(|prompt| prompt == "refuse") {
            return Err(Refusal::of("prompt", "this one is refused"));
        }
        if settings.prompts.iter().any(|prompt| prompt == "long check") {
            sleep(Duration::from_secs(1));
        }
        let frames = settings.frames.unwrap_or(17);
        if frames % 4 != 1 {
            let message = format!("{frames} is not 1 more than a multiple of 4");
            return Err(Refusal::of("frames", message));
        }
        for (index, adapter) in order.adapters.iter().enumerate() {
            if adapter.scope == "nowhere" {
                let at = format!("adapters[{index}].scope");
                return Err(Refusal::of(at, "there is no such place"));
            }
        }
        let size = match &settings.size {
            Some(size) => size
                .parse()
                .map_err(|error| Refusal::of("size", format!("{error}")))?,
            None => VideoSize::new(64, 64),
        };
        let refined = settings.refine || settings.mode == Mode::Refine;
        let (factor, fps) = match refined {
            true => (2, 30.0),
            false => (1, 15.0),
        };
        let mut warnings = Vec::new();
        if settings.distill && !settings.negative_prompt.is_empty() {
            warnings.push("the negative prompt has no effect without guidance above 1".into());
        }
        Ok(Planned {
            width: factor * size.width,
            height: factor * size.height,
            frames: factor * frames * settings.prompts.len(),
            fps,
            warnings,
        })
    }

    fn inspect(&self, adapter: &Path) -> AdapterReport {
        let file = match adapter.is_dir() {
            true => adapter.join("adapter_model.safetensors"),
            false => adapter.to_path_buf(),
        };
        let bytes = fs::read(&file).unwrap_or_default();
        if !bytes.starts_with(b"fake adapter") {
            let problem = format!("{}: not a safetensors file", file.display());
            return AdapterReport {
                problems: vec![problem, "no layer of the model is in it".into()],
                ..AdapterReport::default()
            };
        }
        AdapterReport {
            format: Some("fake".into()),
            rank: Some("8".into()),
            layers: Some(24),
            details: vec![format!("parameters {}", bytes.len())],
            ..AdapterReport::default()
        }
    }

    fn pulled(&self) -> Vec<PulledAdapter> {
        let Some(folder) = &self.pulled else {
            return Vec::new();
        };
        let pulled = |path: PathBuf| {
            let place = path.strip_prefix(folder).ok()?.to_str()?.to_string();
            let name = place.match_indices('/').nth(1)?.0;
            Some(PulledAdapter {
                repository: place[..name].to_string(),
                file: place[name + 1..].to_string(),
                path,
            })
        };
        files(folder).into_iter().filter_map(pulled).collect()
    }

    fn outlives_faults(&self) -> bool {
        self.outlives_faults
    }

    fn worker(&self, number: usize) -> Result<Box<dyn Maker>, MakeError> {
        Ok(Box::new(FakeMaker {
            fake: self.clone(),
            number,
        }))
    }
}

struct FakeMaker {
    fake: Fake,
    number: usize,
}

impl FakeMaker {
    fn log(&self, word: &str, order: &Order) {
        let Some(path) = &self.fake.log else { return };
        let id = order.files.folder().file_name().unwrap_or_default();
        let line = format!("{word} {}\n", id.to_string_lossy());
        let log = OpenOptions::new().create(true).append(true).open(path);
        let written = log.and_then(|mut log| log.write_all(line.as_bytes()));
        assert!(written.is_ok(), "{}: {written:?}", path.display());
    }
}

fn failed(error: impl ToString) -> MakeError {
    MakeError::Failed(error.to_string())
}

impl Maker for FakeMaker {
    fn make(&mut self, order: &Order, watch: &Watch) -> Result<(), MakeError> {
        self.log("begin", order);
        let settings = &order.settings;
        let prompt = settings.prompts.join(" ");
        let pause = match prompt.contains("slow") {
            true => Duration::from_millis(200),
            false => self.fake.pause,
        };
        if let Some((kind, path)) = order.files.input() {
            let there = match kind {
                InputKind::Image => longcat_media::read_image(&path).is_ok(),
                InputKind::Video => path.is_file(),
            };
            assert!(there, "{}", path.display());
        }
        let passes = if settings.refine { 2 } else { 1 };
        let latents = order.files.latents();
        let resumed = latents.is_file();
        for pass in (0..passes).filter(|_| !resumed) {
            watch.pass(pass, passes);
            for segment in 0..settings.prompts.len() {
                if settings.is_long() {
                    watch.segment(segment, settings.prompts.len());
                }
                watch.stage("text");
                watch.stage("denoise");
                let steps = settings
                    .steps
                    .unwrap_or(if settings.distill { 4 } else { 8 });
                for step in 0..steps {
                    if watch.cancelled() {
                        return Err(MakeError::Cancelled);
                    }
                    sleep(pause);
                    if step == 1 && prompt.contains("panic") {
                        panic!("the fake maker panics, as it was told");
                    }
                    if step == 1 && prompt.contains("out of memory") {
                        let message = "denoising: worker 0 has no memory left on the device";
                        return Err(MakeError::OutOfMemory(message.into()));
                    }
                    watch.step(step + 1, steps);
                    let clean = (step + 1) as f64 / steps as f64;
                    watch.preview(&picture(settings.seed, VideoSize::new(16, 16), 5, clean)?);
                }
            }
        }
        if !resumed {
            let temporary = latents.with_extension("partial");
            fs::write(&temporary, format!("latents of seed {}", settings.seed)).map_err(failed)?;
            fs::rename(&temporary, &latents).map_err(failed)?;
        }
        self.log(if resumed { "resume" } else { "latents" }, order);
        watch.stage("decode");
        if prompt.contains("long decode") {
            sleep(Duration::from_secs(2));
        }
        watch.progress(1, 1);
        let plan = self
            .fake
            .check(order)
            .map_err(|refusal| MakeError::Invalid(refusal.message))?;
        let size = VideoSize::new(plan.width, plan.height);
        let frames = picture(settings.seed, size, plan.frames, 1.0)?;
        let made = serde_json::json!({
            "program": "fake", "prompts": settings.prompts, "seed": settings.seed, "device": self.number,
        });
        let options = WriteOptions {
            metadata: Some(made.to_string()),
            ..WriteOptions::default()
        };
        let spec = VideoSpec {
            size,
            fps: plan.fps,
        };
        let mut video = create_video(&order.files.video(), spec, &options).map_err(failed)?;
        for frame in frames.frames() {
            video.push(frame).map_err(failed)?;
        }
        video.finish().map_err(failed)?;
        self.log("made", order);
        Ok(())
    }
}

/// A gradient whose colours the seed turns, coming out of noise.
fn picture(
    seed: u64,
    size: VideoSize,
    frames: usize,
    clean: f64,
) -> Result<VideoFrames, MakeError> {
    let mut data = Vec::with_capacity(3 * frames * size.width * size.height);
    let mut state = seed | 1;
    for frame in 0..frames {
        for y in 0..size.height {
            for x in 0..size.width {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let noise = (state >> 56) as f64;
                let of = |k: u64, place: usize, side: usize| {
                    let turn = (seed.wrapping_mul(k) % 256) as f64;
                    (turn + 256.0 * (place + frame) as f64 / side as f64) % 256.0
                };
                for colour in [
                    of(3, x, size.width),
                    of(5, y, size.height),
                    of(7, x + y, size.width),
                ] {
                    data.push((clean * colour + (1.0 - clean) * noise) as u8);
                }
            }
        }
    }
    VideoFrames::new(size, 15.0, data).map_err(failed)
}
