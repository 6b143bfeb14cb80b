//! `longcat decode`: latents to a video.

use anyhow::{Result, bail};
use longcat_video::media::VideoSpec;
use longcat_video::{FrameRange, Latents, Settings, VideoSize};

use crate::args::Decode;
use crate::output::{check_output_file, check_video, latents_only};
use crate::session::Session;

pub fn run(args: &Decode) -> Result<()> {
    check_output_file(&args.output)?;
    if latents_only(&args.output) {
        bail!(
            "{} are latents; name a video file",
            args.output.output.display()
        );
    }
    let latents = Latents::read(&args.latents)?;
    let settings = Latents::read_settings(&args.latents)?;
    let videos = latents.dims()[0];
    if videos != 1 {
        bail!(
            "{} holds the latents of {videos} videos; one can be written",
            args.latents.display()
        );
    }
    let mut session = Session::without_adapters("decode", &args.place, false, &args.output)?;
    let (made, frames) = session.pipeline.decoded_shape(&latents)?;
    let settings = settings.filter(|settings| describes(settings, made, frames));
    let (range, size, fps) = match &settings {
        Some(settings) => {
            let range = FrameRange::new(settings.first_frame, settings.frames);
            (range, settings.size(), settings.fps)
        }
        None => (FrameRange::ALL, made, session.fps()),
    };
    let fps = args.output.fps.unwrap_or(fps);
    check_video(&args.output, Some(size), fps)?;
    let settings = settings.map(|settings| Settings {
        first_frame: 0,
        fps,
        ..settings
    });
    let spec = VideoSpec { size, fps };
    session.write_decoded(&latents, range, spec, settings.as_ref(), |_| Ok(()))
}

/// Whether what a file says of its latents can be so: its frames are among the decoded ones, and of
/// their size but for a stretch.
fn describes(settings: &Settings, made: VideoSize, frames: usize) -> bool {
    let said = settings.size();
    let stretched = |made: usize, said: usize| (made..=9 * made).contains(&said);
    settings.frames > 0
        && settings.first_frame.saturating_add(settings.frames) <= frames
        && settings.fps.is_finite()
        && settings.fps > 0.0
        && stretched(made.width, said.width)
        && stretched(made.height, said.height)
}
