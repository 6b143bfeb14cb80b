//! Frames that are written while the device decodes the next ones.

use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::Result;
use longcat_video::media::VideoSpec;
use longcat_video::{FrameRange, Latents, PixelFrames, Settings, VideoError};

use crate::output::Writer;
use crate::session::{Job, Session};

/// Pieces of a video that may wait to be written, of a few frames each.
const WAITING: usize = 2;

impl Session {
    /// Decodes the latents of a job and writes their frames in the shape that they shall have, after
    /// those of `before`.
    pub fn write_made(
        &mut self,
        latents: &Latents,
        range: FrameRange,
        job: &Job,
        before: impl FnOnce(&mut Writer<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        let settings = self.bar.with_saved(&job.settings);
        let spec = VideoSpec {
            size: settings.size(),
            fps: settings.fps,
        };
        self.write_decoded(latents, range, spec, Some(&settings), before)
    }

    /// Decodes latents and writes some of their frames as the result, resized where they have another
    /// size than it; `before` writes what comes in front of them. Both are done by another thread than
    /// decoding. The file gets its name when all frames are known to be good.
    pub fn write_decoded(
        &mut self,
        latents: &Latents,
        mut range: FrameRange,
        spec: VideoSpec,
        settings: Option<&Settings>,
        before: impl FnOnce(&mut Writer<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        let output = self.output.clone();
        let kept = settings.and_then(|settings| self.kept(settings));
        let mut writer = Writer::new(&output, spec.fps, kept.map(Settings::to_json));
        let (sender, receiver) = sync_channel::<PixelFrames>(WAITING);
        let Self { pipeline, bar, .. } = self;
        let (decoded, written) = thread::scope(|scope| {
            let writing = scope.spawn(|| -> Result<()> {
                before(&mut writer)?;
                for frames in receiver {
                    writer.push(&frames.resized(spec.size))?;
                }
                Ok(())
            });
            let mut take = |mut videos: Vec<PixelFrames>| match range.of_next(videos.swap_remove(0))
            {
                // The writer goes away only when it failed.
                Some(frames) => sender.send(frames).map_err(|_| VideoError::Cancelled),
                None => Ok(()),
            };
            let decoded = pipeline.decode_each(latents, &mut *bar, &mut take);
            drop(sender);
            bar.times.pass("");
            bar.times.begin("write");
            let written = writing.join().unwrap_or_else(|panic| resume_unwind(panic));
            (decoded, written)
        });
        if matches!(decoded, Ok(()) | Err(VideoError::Cancelled)) {
            written?;
        }
        self.or_keep(decoded)?;
        let written = writer.finish()?;
        self.report(Some(written), settings)
    }
}
