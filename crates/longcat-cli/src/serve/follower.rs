//! Progress of a run for the clients of a server.

use longcat_runtime::DynPipeline;
use longcat_serve::Watch;
use longcat_video::media::VideoFrames;
use longcat_video::{LatentColours, Latents};

/// Tells a server of the run of a job.
pub struct Follower {
    watch: Watch,
    /// None where the colours of the VAE's latents are not known: then there are no previews.
    colours: Option<LatentColours>,
    /// Latent frames per second.
    fps: f64,
    /// How often the video is denoised: refining it is a second time.
    passes: usize,
}

impl Follower {
    pub fn new(watch: &Watch, pipeline: &dyn DynPipeline, refines: bool) -> Self {
        let checkpoint = pipeline.checkpoint();
        let vae = checkpoint.vae_config().ok();
        let per_latent = vae.as_ref().map_or(1, |vae| vae.scale_factor_temporal);
        Self {
            watch: watch.clone(),
            colours: vae.and_then(|vae| vae.latent_colours()),
            fps: checkpoint.defaults().fps / per_latent as f64,
            passes: if refines { 2 } else { 1 },
        }
    }

    /// A stage of the first pass begins, or of the second.
    pub fn stage(&self, name: &str, second: bool) {
        self.pass(second);
        match second {
            true => self.watch.stage(&format!("refine: {name}")),
            false => self.watch.stage(name),
        }
    }

    pub fn segment(&self, index: usize, total: usize, second: bool) {
        self.pass(second);
        self.watch.segment(index, total);
    }

    fn pass(&self, second: bool) {
        self.watch.pass(usize::from(second), self.passes);
    }

    pub fn step(&self, done: usize, total: usize) {
        self.watch.step(done, total);
    }

    pub fn progress(&self, done: usize, total: usize) {
        self.watch.progress(done, total);
    }

    pub fn wants_previews(&self) -> bool {
        self.colours.is_some()
    }

    pub fn preview(&self, latents: &Latents) {
        let colours = self.colours.as_ref();
        let Some(frames) = colours.and_then(|colours| latents.preview(colours)) else {
            return;
        };
        let bytes = frames.as_bytes().to_vec();
        if let Ok(frames) = VideoFrames::new(frames.size(), self.fps, bytes) {
            self.watch.preview(&frames);
        }
    }

    pub fn cancelled(&self) -> bool {
        self.watch.cancelled()
    }
}
