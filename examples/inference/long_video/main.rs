//! A long video, segment by segment; a stopped run goes on where it was.

use anyhow::Result;
use clap::Parser;
use longcat_examples::Common;
use longcat_runtime::{RuntimeOptions, open_pipeline};
use longcat_video::{LongVideoRequest, Sampling, Silent};

#[derive(Parser)]
struct Args {
    /// One prompt per segment.
    #[arg(required = true)]
    prompts: Vec<String>,
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<()> {
    let Args { prompts, common } = Args::parse();
    let root = common.checkpoint()?;
    let mut pipeline = open_pipeline(&common.devices(), &root, &RuntimeOptions::default())?;
    let request = LongVideoRequest {
        sampling: common.sampling(Sampling::standard()),
        ..LongVideoRequest::new(prompts)
    };
    // Finished segments are kept here: the same call with the same request goes on.
    let work = common.output.join("long.mp4.segments");
    let video = pipeline.long_video(&request, &work, &mut Silent)?;
    let fps = pipeline.checkpoint().defaults().fps;
    video.write_video(common.output.join("long.mp4"), fps)?;
    Ok(video.remove()?)
}
