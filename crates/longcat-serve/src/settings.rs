//! What is asked for: as clients send it, and complete as it is kept.

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::studio::{About, InputKind, Refusal};

/// What a video is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// From prompts alone: one, or one for each segment of a long video.
    Text,
    /// It begins with an image.
    Image,
    /// It continues a video.
    Continue,
    /// A video with more pixels and frames.
    Refine,
}

impl Mode {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Continue => "continue",
            Self::Refine => "refine",
        }
    }
}

/// An adapter of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterUse {
    /// Which one.
    pub id: String,
    /// Factor on its own scale.
    #[serde(default = "one")]
    pub strength: f64,
    /// Where and when it acts, without the first `@`; empty for everywhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
}

fn one() -> f64 {
    1.0
}

/// What was asked for, complete; `None` is the model's default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What the video is made from.
    pub mode: Mode,
    /// What it shows; several for the segments of a long video.
    pub prompts: Vec<String>,
    /// What to keep away from.
    pub negative_prompt: String,
    /// `WxH`.
    pub size: Option<String>,
    /// Frames, of each segment.
    pub frames: Option<usize>,
    /// Seed of the noise.
    pub seed: u64,
    /// Denoising steps.
    pub steps: Option<usize>,
    /// Guidance scale.
    pub guidance: Option<f64>,
    /// Whether the distilled adapter is used.
    pub distill: bool,
    /// Whether the result is refined.
    pub refine: bool,
    /// Whether refining keeps the frame rate.
    pub spatial_only: bool,
    /// How many frames are continued.
    pub cond_frames: Option<usize>,
    /// A rule by which passes are left out, as `--cache` takes it.
    pub cache: Option<String>,
    /// Adapters in their order.
    pub adapters: Vec<AdapterUse>,
    /// The earlier video that is continued or refined.
    pub from: Option<String>,
    /// The kind of the upload.
    pub input: Option<InputKind>,
}

impl Settings {
    /// Whether it is made segment by segment.
    pub fn is_long(&self) -> bool {
        self.prompts.len() > 1
    }
}

/// What a client sends.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CreateVideo {
    pub(crate) mode: Option<Mode>,
    prompt: Option<String>,
    prompts: Option<Vec<String>>,
    negative_prompt: Option<String>,
    size: Option<String>,
    frames: Option<u64>,
    seconds: Option<Seconds>,
    seed: Option<u64>,
    steps: Option<u64>,
    guidance: Option<f64>,
    distill: Option<bool>,
    refine: Option<bool>,
    spatial_only: Option<bool>,
    cond_frames: Option<u64>,
    cache: Option<String>,
    adapters: Vec<AdapterUse>,
    pub(crate) from: Option<String>,
    pub(crate) input_from: Option<String>,
    /// OpenAI's clients name one; a server has one.
    #[serde(rename = "model")]
    _model: Option<String>,
}

/// OpenAI's clients send a text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected seconds as a number")]
enum Seconds {
    Number(f64),
    Text(String),
}

impl Seconds {
    fn value(&self) -> Option<f64> {
        let value = match self {
            Self::Number(value) => *value,
            Self::Text(text) => text.parse().ok()?,
        };
        (value.is_finite() && value > 0.0).then_some(value)
    }
}

/// What the settings of a request are completed with.
pub(crate) struct Given<'a> {
    pub(crate) about: &'a About,
    pub(crate) limits: &'a Limits,
    /// The upload, of this request or an earlier one.
    pub(crate) input: Option<InputKind>,
    /// The prompt of the earlier video that is named.
    pub(crate) prompt: Option<String>,
}

impl CreateVideo {
    /// Checks all that needs no model.
    pub(crate) fn complete(self, given: &Given<'_>) -> Result<Settings, Refusal> {
        let mode = self.mode.unwrap_or(match (given.input, &self.from) {
            (Some(InputKind::Image), _) => Mode::Image,
            (Some(InputKind::Video), _) | (None, Some(_)) => Mode::Continue,
            (None, None) => Mode::Text,
        });
        self.check_input(mode, given)?;
        self.check_options(mode, given)?;
        let prompts = self.take_prompts(mode, given)?;
        let frames = self.count_frames(given)?;
        let cond_frames = count("cond_frames", self.cond_frames, given.limits.frames)?;
        let long = prompts.len() > 1;
        if cond_frames.is_some() && mode != Mode::Continue && !long {
            return Err(unfit("cond_frames", mode));
        }
        Ok(Settings {
            mode,
            prompts,
            negative_prompt: self.negative_prompt.unwrap_or_default(),
            frames,
            // What a number of JavaScript holds exactly.
            seed: self.seed.unwrap_or_else(|| rand::random::<u64>() >> 11),
            steps: count("steps", self.steps, given.limits.steps)?,
            guidance: self.guidance,
            distill: self.distill.unwrap_or(false),
            refine: self.refine.unwrap_or(false),
            spatial_only: self.spatial_only.unwrap_or(false),
            cond_frames,
            cache: self.cache,
            adapters: self.adapters,
            size: self.size,
            from: self.from,
            input: given.input,
        })
    }

    fn check_input(&self, mode: Mode, given: &Given<'_>) -> Result<(), Refusal> {
        let named = self.from.is_some();
        if named && given.input.is_some() {
            return Err(Refusal::of(
                "from",
                "an upload and an earlier video are given; leave one out",
            ));
        }
        let video = given.input == Some(InputKind::Video) || named;
        let image = given.input == Some(InputKind::Image);
        match mode {
            Mode::Text if video || image => Err(Refusal::of(
                "mode",
                "text begins with nothing; leave out the upload, or choose another mode",
            )),
            Mode::Image if !image => Err(Refusal::of("image", "mode image needs an image")),
            Mode::Continue | Mode::Refine if !video => Err(Refusal::of(
                "video",
                format!(
                    "mode {} needs a video, or `from` with the id of one",
                    mode.name()
                ),
            )),
            _ => Ok(()),
        }
    }

    fn check_options(&self, mode: Mode, given: &Given<'_>) -> Result<(), Refusal> {
        let (about, limits) = (given.about, given.limits);
        let refines = mode == Mode::Refine;
        for (name, set) in [
            ("refine", self.refine == Some(true)),
            ("distill", self.distill == Some(true)),
            ("guidance", self.guidance.is_some()),
            ("frames", self.frames.is_some()),
            ("seconds", self.seconds.is_some()),
            (
                "negative_prompt",
                self.negative_prompt
                    .as_ref()
                    .is_some_and(|text| !text.is_empty()),
            ),
        ] {
            if refines && set {
                return Err(unfit(name, mode));
            }
        }
        if self.spatial_only == Some(true) && !refines {
            return Err(unfit("spatial_only", mode));
        }
        if (refines || self.refine == Some(true)) && !about.refine {
            return Err(Refusal::of(
                if refines { "mode" } else { "refine" },
                "the model has no refinement adapter",
            ));
        }
        if self.distill == Some(true) && !about.distill {
            return Err(Refusal::of("distill", "the model has no distilled adapter"));
        }
        if let Some(size) = &self.size {
            check_size(size, about, limits)?;
        }
        within("guidance", self.guidance, 0.0, 100.0)?;
        if self.seed.is_some_and(|seed| seed > limits.seed()) {
            let most = limits.seed();
            return Err(Refusal::of("seed", format!("at most {most} is possible")));
        }
        if let Some(text) = &self.negative_prompt {
            check_text("negative_prompt", text, limits)?;
        }
        if self.adapters.len() > limits.adapters {
            let most = limits.adapters;
            return Err(Refusal::of(
                "adapters",
                format!("at most {most} are possible"),
            ));
        }
        for (index, adapter) in self.adapters.iter().enumerate() {
            let at = format!("adapters[{index}].strength");
            within(&at, Some(adapter.strength), -4.0, 4.0)?;
            if adapter.scope.chars().count() > 500 {
                let at = format!("adapters[{index}].scope");
                return Err(Refusal::of(at, "at most 500 characters are possible"));
            }
        }
        Ok(())
    }

    fn take_prompts(&self, mode: Mode, given: &Given<'_>) -> Result<Vec<String>, Refusal> {
        let limits = given.limits;
        let (name, prompts) = match (&self.prompt, &self.prompts) {
            (Some(_), Some(_)) => {
                let message = "`prompt` and `prompts` are given; leave one out";
                return Err(Refusal::of("prompts", message));
            }
            (Some(prompt), None) => ("prompt", vec![prompt.clone()]),
            (None, Some(prompts)) => ("prompts", prompts.clone()),
            (None, None) => ("prompt", given.prompt.clone().into_iter().collect()),
        };
        if prompts.is_empty() || prompts.iter().any(|text| text.trim().is_empty()) {
            return Err(Refusal::of(name, "say what the video shows"));
        }
        if prompts.len() > limits.prompts {
            let most = limits.prompts;
            return Err(Refusal::of(name, format!("at most {most} are possible")));
        }
        if prompts.len() > 1 && mode != Mode::Text {
            return Err(Refusal::of(name, "several are possible in mode text only"));
        }
        for prompt in &prompts {
            check_text(name, prompt, limits)?;
        }
        Ok(prompts)
    }

    fn count_frames(&self, given: &Given<'_>) -> Result<Option<usize>, Refusal> {
        let most = given.limits.frames;
        let Some(seconds) = &self.seconds else {
            return count("frames", self.frames, most);
        };
        if self.frames.is_some() {
            let message = "`frames` and `seconds` are given; leave one out";
            return Err(Refusal::of("seconds", message));
        }
        let Some(seconds) = seconds.value() else {
            return Err(Refusal::of("seconds", "it must be a number above 0"));
        };
        let multiple = given.about.frames_multiple.max(1);
        let units = seconds * given.about.defaults.fps / multiple as f64;
        if units > most as f64 {
            let message = format!("more than {most} frames");
            return Err(Refusal::of("seconds", message));
        }
        let frames = multiple * units.round() as usize + 1;
        count("seconds", Some(frames as u64), most)
    }
}

fn unfit(name: &str, mode: Mode) -> Refusal {
    let message = format!("it has no place in mode {}; leave it out", mode.name());
    Refusal::of(name, message)
}

fn count(name: &str, value: Option<u64>, most: usize) -> Result<Option<usize>, Refusal> {
    let value = value.map(|value| usize::try_from(value).unwrap_or(usize::MAX));
    match value {
        Some(value) if value == 0 || value > most => {
            Err(Refusal::of(name, format!("1 to {most} are possible")))
        }
        value => Ok(value),
    }
}

fn within(name: &str, value: Option<f64>, least: f64, most: f64) -> Result<(), Refusal> {
    match value {
        Some(value) if !(least..=most).contains(&value) => Err(Refusal::of(
            name,
            format!("{value} is not from {least} to {most}"),
        )),
        _ => Ok(()),
    }
}

fn check_text(name: &str, text: &str, limits: &Limits) -> Result<(), Refusal> {
    match text.chars().count() > limits.prompt_characters {
        true => Err(Refusal::of(
            name,
            format!("longer than {} characters", limits.prompt_characters),
        )),
        false => Ok(()),
    }
}

fn check_size(text: &str, about: &About, limits: &Limits) -> Result<(), Refusal> {
    let size: longcat_media::VideoSize = text
        .parse()
        .map_err(|error| Refusal::of("size", format!("{text:?}: {error}")))?;
    let multiple = about.size_multiple.max(1);
    let fits = |side: usize| side > 0 && side.is_multiple_of(multiple);
    if !fits(size.width) || !fits(size.height) {
        let message = format!("{size}: both sides must be multiples of {multiple}");
        return Err(Refusal::of("size", message));
    }
    if size.width.saturating_mul(size.height) > limits.pixels {
        let message = format!("{size} is more than {} pixels", limits.pixels);
        return Err(Refusal::of("size", message));
    }
    Ok(())
}
