//! A long video, segment by segment; a stopped run goes on where it was.

use std::error::Error;

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

fn main() -> Result<(), Box<dyn Error>> {
    let Args { prompts, common } = Args::parse();
    let root = common.checkpoint()?;
    let mut pipeline = open_pipeline(&common.devices(), &root, &RuntimeOptions::default())?;
    let fps = pipeline.checkpoint().defaults().fps;
    let request = LongVideoRequest {
        sampling: common.sampling(Sampling::standard()),
        ..LongVideoRequest::new(prompts)
    };
    let path = common.output.join("long.mp4");
    let video = pipeline.long_video(&request, &path.with_extension("segments"), &mut Silent)?;
    video.write_video(&path, fps)?;
    println!("{}", path.display());
    Ok(())
}
