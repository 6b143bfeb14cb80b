//! `longcat decode`: latents to a video.

use anyhow::{Result, bail};
use longcat_video::Latents;

use crate::args::Decode;
use crate::output::{check_output_file, latents_only};
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
    let videos = latents.dims()[0];
    if videos != 1 {
        bail!(
            "{} holds the latents of {videos} videos; one can be written",
            args.latents.display()
        );
    }
    let mut session = Session::without_adapters(&args.place, false, &args.output, None)?;
    let fps = session.pipeline.checkpoint().defaults().fps;
    session.finish(&latents, fps)
}
