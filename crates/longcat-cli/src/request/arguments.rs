//! What the arguments of all commands that a request may be have in common.

use clap::Args;

use crate::args::{Continue, ImageToVideo, Long, Model, Refine, Sampler, TextToVideo};

/// Arguments that an object may hold.
pub trait Arguments: Args {
    const COMMAND: &'static str;

    fn model(&mut self) -> &mut Model;

    /// How it samples, where it generates.
    fn sampler(&mut self) -> Option<&mut Sampler>;
}

impl Arguments for TextToVideo {
    const COMMAND: &'static str = "t2v";

    fn model(&mut self) -> &mut Model {
        &mut self.model
    }

    fn sampler(&mut self) -> Option<&mut Sampler> {
        Some(&mut self.sampler)
    }
}

impl Arguments for ImageToVideo {
    const COMMAND: &'static str = "i2v";

    fn model(&mut self) -> &mut Model {
        &mut self.model
    }

    fn sampler(&mut self) -> Option<&mut Sampler> {
        Some(&mut self.sampler)
    }
}

impl Arguments for Continue {
    const COMMAND: &'static str = "continue";

    fn model(&mut self) -> &mut Model {
        &mut self.model
    }

    fn sampler(&mut self) -> Option<&mut Sampler> {
        Some(&mut self.sampler)
    }
}

impl Arguments for Refine {
    const COMMAND: &'static str = "refine";

    fn model(&mut self) -> &mut Model {
        &mut self.model
    }

    fn sampler(&mut self) -> Option<&mut Sampler> {
        None
    }
}

impl Arguments for Long {
    const COMMAND: &'static str = "long";

    fn model(&mut self) -> &mut Model {
        &mut self.model
    }

    fn sampler(&mut self) -> Option<&mut Sampler> {
        Some(&mut self.sampler)
    }
}
