//! A small moving picture of what a video is coming to.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, spawn};

use longcat_cli::note;
use longcat_video::{LatentColours, Latents, PixelFrames, VideoSize};

/// Pixels that the longer side has at least: latents alone are too few to see.
const LONGEST: usize = 128;

/// A file that shows the last preview. Another thread writes it, whole under its name each time; a preview
/// that comes meanwhile takes the place of one that waits.
pub struct PreviewFile {
    colours: LatentColours,
    /// None once the last preview was handed over.
    sender: Option<Sender<PixelFrames>>,
    writing: Option<JoinHandle<()>>,
}

impl PreviewFile {
    /// Previews of `fps` latent frames per second.
    pub fn new(path: PathBuf, colours: LatentColours, fps: f64) -> Self {
        let (sender, receiver) = channel();
        Self {
            colours,
            sender: Some(sender),
            writing: Some(spawn(move || write_last(&path, fps, &receiver))),
        }
    }

    /// Shows these latents from now on.
    pub fn show(&self, latents: &Latents) {
        if let (Some(preview), Some(sender)) = (latents.preview(&self.colours), &self.sender) {
            // The thread is gone where it could not write, and has said so.
            let _ = sender.send(preview);
        }
    }
}

impl Drop for PreviewFile {
    /// Waits for the last preview to be written.
    fn drop(&mut self) {
        self.sender = None;
        if let Some(writing) = self.writing.take() {
            // A preview is not worth a failure.
            let _ = writing.join();
        }
    }
}

/// The file beside an output.
pub fn beside(output: &Path) -> PathBuf {
    output.with_extension("preview.webp")
}

fn write_last(path: &Path, fps: f64, previews: &Receiver<PixelFrames>) {
    while let Ok(preview) = previews.recv() {
        let last = previews.try_iter().last().unwrap_or(preview);
        let VideoSize { width, height } = last.size();
        let factor = LONGEST.div_ceil(width.max(height));
        let large = last.resized(VideoSize::new(factor * width, factor * height));
        if let Err(problem) = large.write_video(path, fps) {
            note!("warning: no more previews: {problem}");
            return;
        }
    }
}
