//! What a video was made with, as its files keep it.

use serde::{Deserialize, Serialize};

use crate::VideoSize;

/// What a video or latents were made with: enough to make them again.
///
/// Latents keep it in the header of their file ([`Latents::write_with`](crate::Latents::write_with)),
/// videos in their metadata, both as JSON. Models and adapters are given by the names of their files,
/// without the folders that these lie in: a video that is passed on tells nothing of the machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Name and version of the program.
    pub program: String,
    /// The command: `t2v`, `i2v`, `continue`, `long` or `refine`.
    pub command: String,
    /// Name of the checkpoint.
    pub model: String,
    /// The prompt, or the prompts of a long video.
    pub prompts: Vec<String>,
    /// Negative prompt; empty where it had no effect.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub negative_prompt: String,
    /// Seed of the noise.
    pub seed: u64,
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Number of frames.
    pub frames: usize,
    /// Frames per second.
    pub fps: f64,
    /// Condition frames that the video begins with.
    #[serde(skip_serializing_if = "is_zero")]
    pub cond_frames: usize,
    /// Frames before the first one of the video when its latents are decoded: padding.
    #[serde(skip_serializing_if = "is_zero")]
    pub first_frame: usize,
    /// How the video was generated; absent where a given video was refined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<StageSettings>,
    /// How it was refined, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refinement: Option<StageSettings>,
    /// The device or devices.
    pub device: String,
    /// Type of computation.
    pub dtype: String,
    /// How weights were kept, where not as the checkpoint has them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub precision: String,
    /// In which numbers packed weights were multiplied, where not in those of computation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub products: String,
    /// In which numbers self-attention was computed, where not in those of computation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub attention: String,
    /// Whether frames were encoded and decoded tile by tile.
    pub vae_tiling: bool,
}

/// How one stage was denoised.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StageSettings {
    /// Steps of the schedule.
    pub steps: usize,
    /// Guidance scale; 1 is none.
    pub guidance: f64,
    /// Whether the schedule was that of the distilled adapter.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub distilled: bool,
    /// Share of noise that refining started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Which passes of the transformer could be left out, if some could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<UsedCache>,
    /// The adapters that took part.
    pub adapters: Vec<UsedAdapter>,
    /// Whether they were merged into the weights.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub merged: bool,
}

/// A rule by which passes were left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UsedCache {
    /// The rule, as `--cache` takes it.
    pub rule: String,
    /// How many passes were left out.
    pub saved: usize,
    /// Of how many.
    pub passes: usize,
}

/// An adapter that took part.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UsedAdapter {
    /// Name of its file or folder.
    pub name: String,
    /// Factor on its own scale.
    pub strength: f64,
    /// Where and when it acted, as [`LoraScope`](crate::LoraScope) writes it; empty for everywhere.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

impl Settings {
    /// The record of this program, still without a request.
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            program: format!("longcat-video {}", env!("CARGO_PKG_VERSION")),
            command: command.into(),
            ..Self::default()
        }
    }

    /// Width and height.
    pub fn size(&self) -> VideoSize {
        VideoSize::new(self.width, self.height)
    }

    /// The record as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|e| unreachable!("text and numbers become JSON: {e}"))
    }

    /// The record of a file; none if the text is something else.
    pub fn from_json(text: &str) -> Option<Self> {
        let settings: Self = serde_json::from_str(text).ok()?;
        (!settings.program.is_empty()).then_some(settings)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_come_back_and_other_texts_are_none() {
        let settings = Settings {
            prompts: vec!["a \"red\" circle\n→".into()],
            seed: u64::MAX,
            fps: 30000.0 / 1001.0,
            generation: Some(StageSettings {
                guidance: 4.0,
                adapters: vec![UsedAdapter {
                    name: "style.safetensors".into(),
                    strength: 0.1,
                    scope: "@attn@steps.0-50%".into(),
                }],
                ..StageSettings::default()
            }),
            ..Settings::new("t2v")
        };
        let text = settings.to_json();
        assert!(!text.contains('\n'));
        assert_eq!(Settings::from_json(&text).unwrap(), settings);
        // A later version may say more, an earlier one less.
        let other = r#"{"program": "longcat-video 9", "mood": "good"}"#;
        assert_eq!(Settings::from_json(other).unwrap().seed, 0);
        for text in ["", "[]", "{}", "parameters: 7", r#"{"seed": 7}"#] {
            assert_eq!(Settings::from_json(text), None, "{text}");
        }
    }
}
