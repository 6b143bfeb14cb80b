//! `longcat inspect` of videos, pictures and latents: what they are, and what they were made with.

use std::path::Path;

use anyhow::Result;
use longcat_cli::{printable, say};
use longcat_video::media::{ReadOptions, VideoReader, is_picture, read_image, read_metadata};
use longcat_video::{Latents, VideoSize};
use serde::Serialize;
use serde_json::Value;

/// Endings of files of weights, which are told of elsewhere.
const WEIGHTS: &[&str] = &["safetensors", "gguf", "pt", "pth", "bin", "ckpt", "json"];

/// What a video, a picture, a folder of pictures or latents are; nothing for weights.
pub fn find(path: &Path) -> Result<Option<Found>> {
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    if path.is_dir() {
        return match holds_pictures_alone(path) {
            true => media(path).map(Some),
            false => Ok(None),
        };
    }
    if ending == "safetensors" && Latents::read(path).is_ok() {
        return latents(path).map(Some);
    }
    // Downloads are often kept without an ending.
    match ending.is_empty() || WEIGHTS.contains(&&*ending.to_lowercase()) {
        true => Ok(None),
        false => media(path).map(Some),
    }
}

/// Whether all files of a folder but hidden ones are pictures.
fn holds_pictures_alone(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    let mut files = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !name.starts_with('.')
        })
        .peekable();
    files.peek().is_some() && files.all(|path| is_picture(&path))
}

/// What is told of any file.
#[derive(Debug, Serialize)]
pub struct Found {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fps: Option<f64>,
    /// Of latents.
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<Vec<usize>>,
    /// What is stored with it: JSON where this program wrote it, else a text.
    metadata: Option<Value>,
}

impl Found {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            width: None,
            height: None,
            fps: None,
            shape: None,
            metadata: None,
        }
    }

    fn sized(self, size: VideoSize) -> Self {
        Self {
            width: Some(size.width),
            height: Some(size.height),
            ..self
        }
    }

    pub fn print(&self, json: bool) -> Result<()> {
        let value = serde_json::to_value(self)?;
        if json {
            say!("{value}");
            return Ok(());
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            match (key.as_str(), value) {
                ("metadata", Value::Null) => say!("metadata: none"),
                ("metadata", Value::Object(settings)) => {
                    say!("metadata:");
                    for (key, value) in settings {
                        say!("  {}: {}", printable(key), shown(value));
                    }
                }
                (key, value) => say!("{key}: {}", shown(value)),
            }
        }
        Ok(())
    }
}

/// Texts without quotes, but on one line and without what a terminal would act on.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text).into_owned(),
        other => printable(&other.to_string()).into_owned(),
    }
}

fn media(file: &Path) -> Result<Found> {
    let found = if is_picture(file) {
        Found::new("picture").sized(read_image(file)?.dimensions().into())
    } else {
        let reader = VideoReader::open(file, &ReadOptions::default())?;
        Found {
            fps: reader.fps().filter(|_| !file.is_dir()),
            ..Found::new("video").sized(reader.size())
        }
    };
    let metadata = read_metadata(file)?;
    Ok(Found {
        metadata: metadata.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text))),
        ..found
    })
}

fn latents(file: &Path) -> Result<Found> {
    let shape = Latents::read(file)?.dims();
    let settings = Latents::read_settings(file)?;
    Ok(Found {
        shape: Some(shape.to_vec()),
        metadata: settings.map(serde_json::to_value).transpose()?,
        ..Found::new("latents")
    })
}
