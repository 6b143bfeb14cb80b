//! A picture becomes the first frame of a video.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use longcat_examples::Common;
use longcat_runtime::{RuntimeOptions, open_pipeline};
use longcat_video::{ImageToVideoRequest, PixelFrames, Sampling, SeededNoise, Silent};

#[derive(Parser)]
struct Args {
    /// The picture.
    image: PathBuf,
    /// What the video shows.
    #[arg(default_value = "a red circle moves right")]
    prompt: String,
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let common = &args.common;
    let image = PixelFrames::read_image(&args.image)?;
    let root = common.checkpoint()?;
    let mut pipeline = open_pipeline(&common.devices(), &root, &RuntimeOptions::default())?;
    // The picture is brought to the size of the checkpoint that is nearest in shape.
    let request = ImageToVideoRequest {
        sampling: common.sampling(Sampling::standard()),
        ..ImageToVideoRequest::new(image, args.prompt)
    };
    let latents = pipeline.image_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
    let video = &pipeline.decode(&latents, &mut Silent)?[0];
    common.write(
        "from_image.mp4",
        video,
        pipeline.checkpoint().defaults().fps,
    )
}
