//! `longcat decode`: latents to a video.

use anyhow::{Result, bail};
use longcat_video::{Latents, PixelFrames, Settings};

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
    let stated = settings.as_ref().map(|settings| settings.fps);
    let stated = stated.filter(|fps| fps.is_finite() && *fps > 0.0);
    let fps = stated.unwrap_or_else(|| session.fps());
    check_video(&args.output, None, args.output.fps.unwrap_or(fps))?;
    let frames = session.decode(&latents)?;
    let settings = settings.filter(|settings| describes(settings, &frames));
    let (frames, fps) = match &settings {
        Some(settings) => {
            let frames = frames.part(settings.first_frame, settings.frames);
            (frames.resized(settings.size()), settings.fps)
        }
        None => (frames, session.fps()),
    };
    let settings = settings.map(|settings| Settings {
        first_frame: 0,
        fps: args.output.fps.unwrap_or(fps),
        ..settings
    });
    session.bar.times.begin("write");
    let mut writer = session.writer(args.output.fps.unwrap_or(fps), settings.as_ref());
    writer.push(&frames)?;
    let written = writer.finish()?;
    session.report(Some(written), settings.as_ref())
}

/// Whether what a file says of its latents can be so: its frames are among the decoded ones, and of
/// their size but for a stretch.
fn describes(settings: &Settings, frames: &PixelFrames) -> bool {
    let (made, said) = (frames.size(), settings.size());
    let stretched = |made: usize, said: usize| (made..=9 * made).contains(&said);
    settings.frames > 0
        && settings.first_frame.saturating_add(settings.frames) <= frames.len()
        && settings.fps.is_finite()
        && settings.fps > 0.0
        && stretched(made.width, said.width)
        && stretched(made.height, said.height)
}
