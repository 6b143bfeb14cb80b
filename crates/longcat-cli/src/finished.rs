//! Latents that are finished, where the device then fails.

use std::path::{Path, PathBuf};

use anyhow::Result;
use longcat_video::{DeviceError, Latents, Settings, Stage, VideoError};

/// Latents of a run before they are decoded.
pub struct Finished {
    pub latents: Latents,
    /// What they were made with, for the header of a file.
    pub settings: Option<Settings>,
    /// The file that they are in already.
    pub path: Option<PathBuf>,
}

/// The result of a run; where decoding failed for the device's sake, its latents are in a file
/// afterwards, which the error names.
pub fn or_keep<T>(
    result: Result<T, VideoError>,
    finished: Option<&Finished>,
    output: &Path,
) -> Result<T> {
    match (result, finished) {
        (Err(VideoError::Device(error)), Some(finished)) if error.stage == Stage::Decoding => {
            Err(keep(error, finished, output))
        }
        (result, _) => Ok(result?),
    }
}

fn keep(error: DeviceError, finished: &Finished, output: &Path) -> anyhow::Error {
    let error = anyhow::Error::from(error);
    let path = match &finished.path {
        Some(path) => path.clone(),
        None => {
            let path = beside(output);
            let settings = finished.settings.as_ref();
            if let Err(problem) = finished.latents.write_with(&path, settings) {
                return error.context(format!("the latents could not be kept ({problem})"));
            }
            path
        }
    };
    let (path, output) = (path.display(), output.display());
    error.context(format!(
        "the latents are finished and kept: `longcat decode {path} -o {output}` makes the video of \
         them"
    ))
}

/// A file beside an output, under a name that is free.
fn beside(output: &Path) -> PathBuf {
    let named = |number: usize| match number {
        0 => output.with_extension("latents.safetensors"),
        n => output.with_extension(format!("latents-{n}.safetensors")),
    };
    let mut names = (0..).map(named);
    names
        .find(|path| !path.exists())
        .unwrap_or_else(|| unreachable!("names do not end"))
}
