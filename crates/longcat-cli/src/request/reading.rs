//! Reading an object: what it says as a command line, and its adapters.

use std::ffi::OsString;
use std::path::{Component, Path};

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::arguments::Arguments;
use super::keys::{Key, Keys, Takes, told};
use super::{Folders, RequestError};
use crate::lora_arg::LoraArg;
use crate::lora_list::Entry;
use crate::prompt::literal;

/// An object that is read.
pub(super) struct Reading<'a> {
    pub object: &'a Map<String, Value>,
    pub folders: Folders<'a>,
    /// The name of the result where the object has none.
    pub output: &'a str,
}

impl Reading<'_> {
    /// The arguments of a command.
    pub fn arguments<A: Arguments>(&self) -> Result<A, RequestError> {
        let command = A::augment_args(clap::Command::new(A::COMMAND).no_binary_name(true));
        let keys = Keys::of(&command);
        let mut options: Vec<OsString> = Vec::new();
        let mut positions: Vec<(usize, OsString)> = Vec::new();
        let mut adapters = Vec::new();
        let mut named = false;
        for (name, value) in self.object {
            if name == "command" || value.is_null() {
                continue;
            }
            let key = keys.find(name, A::COMMAND)?;
            named |= key.name == "output";
            match key.takes {
                Takes::Adapters => adapters.push((key, value)),
                Takes::Flag => options.extend(flag(key, value)?),
                Takes::Value => options.push(option(key, &self.text(key, value)?)),
                Takes::Position(index) => {
                    let all = value.as_array().filter(|_| key.name == "prompts");
                    for value in all.map_or(std::slice::from_ref(value), Vec::as_slice) {
                        positions.push((index, self.text(key, value)?));
                    }
                }
            }
        }
        keys.check_positions(self.object)?;
        if !named {
            let output = self.folders.outputs.join(self.output);
            options.push(option(keys.find("output", A::COMMAND)?, output.as_os_str()));
        }
        positions.sort_by_key(|(index, _)| *index);
        options.push("--".into());
        options.extend(positions.into_iter().map(|(_, text)| text));
        let matches = command.try_get_matches_from(options);
        let read = matches.and_then(|matches| A::from_arg_matches(&matches));
        let mut read = read.map_err(|error| told(&error))?;
        for (key, value) in adapters {
            self.adapters(key, value, &mut read)?;
        }
        Ok(read)
    }

    /// A value as an argument.
    fn text(&self, key: &Key, value: &Value) -> Result<OsString, RequestError> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => {
                return Err(RequestError::new(
                    key.name.as_str(),
                    "expected a text or a number",
                ));
            }
        };
        Ok(match key.name.as_str() {
            "prompt" | "prompts" => literal(&text).into(),
            "image" | "video" | "condition" => self.folders.inputs.join(text).into_os_string(),
            "output" | "save_latents" | "work_dir" => {
                let path = Path::new(&text);
                let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
                if text.is_empty() || !path.components().all(inside) {
                    let reason = format!(
                        "{text:?} does not lie in the folder of the results; give a name in it"
                    );
                    return Err(RequestError::new(key.name.as_str(), reason));
                }
                // As it is written: a separator at its end says that it is a folder.
                self.folders.outputs.join(text).into_os_string()
            }
            _ => text.into(),
        })
    }

    /// Puts the adapters of a key into arguments.
    fn adapters<A: Arguments>(
        &self,
        key: &Key,
        value: &Value,
        args: &mut A,
    ) -> Result<(), RequestError> {
        let read = |value: &Value| {
            self.adapter(value)
                .map_err(|error| RequestError::new(key.name.as_str(), format!("{error:#}")))
        };
        match (key.name.as_str(), value) {
            ("lora", Value::Array(all)) => {
                args.model().loras = all.iter().map(read).collect::<Result<_, _>>()?;
            }
            ("lora", one) => args.model().loras = vec![read(one)?],
            ("refine_lora", one) => args.model().refine_lora = Some(read(one)?),
            (_, Value::Bool(false)) => {}
            (_, named) => {
                let named = match named {
                    Value::Bool(_) => None,
                    named => Some(read(named)?),
                };
                if let Some(sampler) = args.sampler() {
                    sampler.distill = Some(named);
                }
            }
        }
        Ok(())
    }

    /// An adapter: a text as after `--lora`, or an object as in a list of adapters.
    fn adapter(&self, value: &Value) -> Result<LoraArg> {
        let folder = self.folders.inputs;
        match value {
            Value::String(text) => {
                let path = folder.join(text);
                let Some(text) = path.to_str() else {
                    anyhow::bail!("{} is no UTF-8 text", path.display());
                };
                Ok(text.parse()?)
            }
            Value::Object(_) => Entry::deserialize(value)?.in_folder(folder),
            _ => anyhow::bail!("expected PATH[=STRENGTH][@PART]..., or an object with a path"),
        }
    }
}

/// An option with its value.
fn option(key: &Key, value: impl AsRef<std::ffi::OsStr>) -> OsString {
    let mut text = OsString::from(format!("--{}=", key.long));
    text.push(value);
    text
}

/// An option that is there or not.
fn flag(key: &Key, value: &Value) -> Result<Option<OsString>, RequestError> {
    match value {
        Value::Bool(true) => Ok(Some(format!("--{}", key.long).into())),
        Value::Bool(false) => Ok(None),
        _ => Err(RequestError::new(
            key.name.as_str(),
            "expected true or false",
        )),
    }
}
