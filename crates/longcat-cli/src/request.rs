//! Requests as objects of JSON, as `longcat batch` and `longcat serve` take them.
//!
//! The keys are the options of `longcat t2v`, `i2v`, `continue`, `long` and `refine`, with `_` where options
//! have `-`, and the names of their arguments: `{"prompt": "a red circle", "seed": 3, "size": "64x64"}`. What
//! belongs to the models (`--model`, `--device`, …) and to printing is of the command that reads the
//! objects.

mod arguments;
mod keys;
mod reading;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};

use crate::args::{Continue, ImageToVideo, Long, Model, Output, Refine, TextToVideo};
use crate::commands::plan::Task;
use crate::commands::{generate, long, refine};
use crate::session::Session;

use keys::Keys;
use reading::Reading;

/// One video to make.
#[derive(Debug)]
pub enum Request {
    T2v(Box<TextToVideo>),
    I2v(Box<ImageToVideo>),
    Continue(Box<Continue>),
    Long(Box<Long>),
    Refine(Box<Refine>),
}

/// Where the files of a request lie.
#[derive(Debug, Clone, Copy)]
pub struct Folders<'a> {
    /// What relative paths of pictures, videos and adapters begin at.
    pub inputs: &'a Path,
    /// What results lie in.
    pub outputs: &'a Path,
}

/// Why an object is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct RequestError {
    /// The key at fault.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl RequestError {
    pub fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            reason: reason.into(),
        }
    }
}

/// The commands that a request may name.
const COMMANDS: [&str; 5] = ["t2v", "i2v", "continue", "long", "refine"];

impl Request {
    /// Reads an object. Without `command` it is `i2v` where there is an `image`, `continue` where there is a
    /// `video`, `long` where there are `prompts`, else `t2v`. Texts are taken as they are: a prompt names no
    /// file. `null` is no value.
    ///
    /// # Errors
    /// [`RequestError`] names the key. Files are not looked at, except that adapters whose names hold `=` or
    /// `@` are looked for.
    pub fn read(
        object: &Map<String, Value>,
        folders: Folders<'_>,
        output: &str,
    ) -> Result<Self, RequestError> {
        let read = Reading {
            object,
            folders,
            output,
        };
        Ok(match command_of(object)? {
            "t2v" => Self::T2v(Box::new(read.arguments()?)),
            "i2v" => Self::I2v(Box::new(read.arguments()?)),
            "continue" => Self::Continue(Box::new(read.arguments()?)),
            "long" => Self::Long(Box::new(read.arguments()?)),
            _ => Self::Refine(Box::new(read.arguments()?)),
        })
    }

    /// Checks that a key is one of some command.
    ///
    /// # Errors
    /// [`RequestError`] names what is near.
    pub fn check_key(key: &str) -> Result<(), RequestError> {
        match commands_with(key).is_empty() {
            false => Ok(()),
            true => keys_of("t2v").find(key, "a request").map(|_| ()),
        }
    }

    /// Checks that the command of at least one object takes a key of some command.
    ///
    /// # Errors
    /// [`RequestError`] names the commands that take it, and what is near among the keys of the objects.
    pub fn check_use<'a>(
        objects: impl Iterator<Item = &'a Map<String, Value>>,
        key: &str,
    ) -> Result<(), RequestError> {
        let taking = commands_with(key);
        let mut others = BTreeSet::new();
        for object in objects {
            let command = command_of(object).unwrap_or("t2v");
            if taking.contains(&command) {
                return Ok(());
            }
            others.insert(command);
        }
        let near = others.into_iter().map(|command| keys_of(command).near(key));
        let near = near.max_by_key(String::len).unwrap_or_default();
        let taking = taking.join(", ");
        Err(RequestError::new(
            key,
            format!("is a key of {taking}, and there is no such line{near}"),
        ))
    }

    /// Whether the command of an object takes a key.
    pub fn takes(object: &Map<String, Value>, key: &str) -> bool {
        // What is wrong with the command is told when the object is read.
        commands_with(key).contains(&command_of(object).unwrap_or("t2v"))
    }

    /// Looks at its files and carries it out: sees whether it can be made, or makes it.
    ///
    /// # Errors
    /// As the command of its kind.
    pub fn run(&self, session: &mut Session, task: Task) -> Result<()> {
        match self {
            Self::T2v(args) => generate::Given::text_to_video(args, task)?.within(session, task),
            Self::I2v(args) => generate::Given::image_to_video(args, task)?.within(session, task),
            Self::Continue(args) => {
                generate::Given::continue_video(args, task)?.within(session, task)
            }
            Self::Long(args) => long::within(args, session, task),
            Self::Refine(args) => refine::Given::new(args, task)?.within(session, task),
        }
    }

    /// The files that it makes.
    pub fn output(&self) -> &Output {
        match self {
            Self::T2v(args) => &args.output,
            Self::I2v(args) => &args.output,
            Self::Continue(args) => &args.output,
            Self::Long(args) => &args.output,
            Self::Refine(args) => &args.output,
        }
    }

    /// The same, to be changed.
    pub fn output_mut(&mut self) -> &mut Output {
        match self {
            Self::T2v(args) => &mut args.output,
            Self::I2v(args) => &mut args.output,
            Self::Continue(args) => &mut args.output,
            Self::Long(args) => &mut args.output,
            Self::Refine(args) => &mut args.output,
        }
    }

    /// The models that it is made with, to be changed.
    pub fn model_mut(&mut self) -> &mut Model {
        match self {
            Self::T2v(args) => &mut args.model,
            Self::I2v(args) => &mut args.model,
            Self::Continue(args) => &mut args.model,
            Self::Long(args) => &mut args.model,
            Self::Refine(args) => &mut args.model,
        }
    }
}

/// The command that an object names, or that its keys do.
fn command_of(object: &Map<String, Value>) -> Result<&'static str, RequestError> {
    let has = |key: &str| object.get(key).is_some_and(|value| !value.is_null());
    let Some(value) = object.get("command").filter(|value| !value.is_null()) else {
        return Ok(match (has("image"), has("video"), has("prompts")) {
            (true, ..) => "i2v",
            (_, true, _) => "continue",
            (.., true) => "long",
            _ => "t2v",
        });
    };
    let named = COMMANDS.into_iter().find(|command| value == *command);
    named.ok_or_else(|| {
        let all = COMMANDS.join(", ");
        RequestError::new("command", format!("{value} is none of {all}"))
    })
}

/// The commands that take a key.
fn commands_with(key: &str) -> Vec<&'static str> {
    let takes = |command: &&str| key == "command" || keys_of(command).find(key, command).is_ok();
    COMMANDS.into_iter().filter(takes).collect()
}

/// The keys of a command.
fn keys_of(command: &str) -> Keys {
    let empty = clap::Command::new("request");
    Keys::of(&match command {
        "i2v" => ImageToVideo::augment_args(empty),
        "continue" => Continue::augment_args(empty),
        "long" => Long::augment_args(empty),
        "refine" => Refine::augment_args(empty),
        _ => TextToVideo::augment_args(empty),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(object: &Value) -> Result<Request, RequestError> {
        let folders = Folders {
            inputs: Path::new("in"),
            outputs: Path::new("out"),
        };
        Request::read(object.as_object().unwrap(), folders, "1.mp4")
    }

    #[test]
    fn an_object_says_the_same_as_a_command_line() {
        use crate::args::{Cli, Command};
        use clap::Parser;
        for (object, line) in [
            (
                serde_json::json!({"prompt": "@a cat", "seed": 3, "size": "64x32", "refine": true,
                    "distill": true, "cache": "easy=0.1", "guidance": 1.5, "output": "a/b.mp4"}),
                "t2v|@@a cat|--seed=3|--size=64x32|--refine|--distill|--cache=easy=0.1|\
                 --guidance=1.5|-o|out/a/b.mp4",
            ),
            (
                serde_json::json!({"prompt": "-", "image": "a.png", "lora": ["s=0.5@attn",
                    {"path": "m", "strength": 2, "when": "steps.1-8"}], "refine": false,
                    "distill": "d=0.5", "frames": null}),
                "i2v|in/a.png| -|--lora=in/s=0.5@attn|--lora=in/m=2@steps.1-8|\
                 --distill=in/d=0.5|-o|out/1.mp4",
            ),
            (
                serde_json::json!({"prompt": "more", "video": "/v.mp4", "cond_frames": 5,
                    "keep_source": true, "no-kv-cache": true, "save_latents": "l.safetensors"}),
                "continue|/v.mp4|more|--cond-frames=5|--with-source|--no-kv-cache|\
                 --save-latents=out/l.safetensors|-o|out/1.mp4",
            ),
            (
                serde_json::json!({"prompts": ["z", "@a"], "segments": 2, "seed": 4}),
                "long|z|@@a|--segments=2|--seed=4|-o|out/1.mp4",
            ),
            (
                serde_json::json!({"command": "refine", "prompt": "p", "video": "v.gif",
                    "threshold": 0.25, "condition": "c.png", "refine_lora": "r", "quality": 9}),
                "refine|in/v.gif|p|--threshold=0.25|--condition=in/c.png|--refine-lora=in/r|\
                 --quality=9|-o|out/1.mp4",
            ),
        ] {
            let line = std::iter::once("longcat").chain(line.split('|'));
            let command = Cli::try_parse_from(line).unwrap().command;
            let said = match &command {
                Command::T2v(args) => format!("{args:?}"),
                Command::I2v(args) => format!("{args:?}"),
                Command::Continue(args) => format!("{args:?}"),
                Command::Long(args) => format!("{args:?}"),
                Command::Refine(args) => format!("{args:?}"),
                _ => unreachable!(),
            };
            let read = match read(&object).unwrap() {
                Request::T2v(args) => format!("{args:?}"),
                Request::I2v(args) => format!("{args:?}"),
                Request::Continue(args) => format!("{args:?}"),
                Request::Long(args) => format!("{args:?}"),
                Request::Refine(args) => format!("{args:?}"),
            };
            // Prompts are compared as they will be used.
            let plain = |text: String| text.replace("\"@@", "\"@").replace("\" ", "\"");
            assert_eq!(plain(read), plain(said), "{object}");
        }
    }

    #[test]
    fn errors_name_the_key_and_what_it_could_be() {
        for (object, key, words) in [
            (
                serde_json::json!({"prompt": "a", "sed": 3}),
                "sed",
                "`seed`",
            ),
            (serde_json::json!({"seed": 3}), "prompt", "is missing"),
            (
                serde_json::json!({"prompt": "a", "command": "i2v"}),
                "image",
                "is missing",
            ),
            (
                serde_json::json!({"prompt": "a", "command": "make"}),
                "command",
                "t2v, i2v",
            ),
            (
                serde_json::json!({"prompt": "a", "size": "64"}),
                "size",
                "WIDTHxHEIGHT",
            ),
            (
                serde_json::json!({"prompt": "a", "steps": 2.5}),
                "steps",
                "digit",
            ),
            (
                serde_json::json!({"prompt": "a", "quality": 101}),
                "quality",
                "100",
            ),
            (
                serde_json::json!({"prompt": "a", "refine": "yes"}),
                "refine",
                "true or false",
            ),
            (serde_json::json!({"prompt": ["a"]}), "prompt", "a text"),
            (
                serde_json::json!({"prompt": "a", "device": "cpu"}),
                "device",
                "all",
            ),
            (
                serde_json::json!({"prompt": "a", "output": "../a.mp4"}),
                "output",
                "../a.mp4",
            ),
            (
                serde_json::json!({"prompt": "a", "lora": [{"path": "a", "weight": 1}]}),
                "lora",
                "weight",
            ),
            (
                serde_json::json!({"prompt": "a", "lora": "a=b"}),
                "lora",
                "number",
            ),
            (
                serde_json::json!({"prompt": "a", "video": "v", "command": "refine", "cond_frames": 5}),
                "condition",
                "missing",
            ),
        ] {
            let error = read(&object).unwrap_err();
            assert_eq!(error.key, key, "{error}");
            assert!(error.reason.contains(words), "{error}");
        }
    }
}
