//! The keys of a request: the arguments of its command.

use std::error::Error;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Args, Command};
use serde_json::{Map, Value};

use super::RequestError;
use crate::args::Model;

/// What a request says of the models: its adapters. All else of them is the same for all requests.
const OF_MODELS: [&str; 2] = ["loras", "refine_lora"];
/// What is the same for all requests of how results are written and told.
const OF_RESULTS: [&str; 4] = ["overwrite", "no_metadata", "json", "verbose"];

/// Arguments that are the same for all requests.
struct OfAll(Command);

impl OfAll {
    fn new() -> Self {
        Self(Model::augment_args(Command::new("models")))
    }

    fn has(&self, id: &str) -> bool {
        let mut of_models = self.0.get_arguments().map(|arg| arg.get_id().as_str());
        OF_RESULTS.contains(&id) || of_models.any(|of| of == id) && !OF_MODELS.contains(&id)
    }
}

/// A key of an object.
#[derive(Debug)]
pub struct Key {
    /// As an object has it.
    pub name: String,
    /// The option, without its dashes.
    pub long: String,
    pub takes: Takes,
    aliases: Vec<String>,
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// True or false.
    Flag,
    /// A text or a number.
    Value,
    /// The same, of the argument in this place.
    Position(usize),
    /// One adapter or several.
    Adapters,
}

/// The keys of a command.
pub struct Keys(Vec<Key>);

impl Keys {
    pub fn of(command: &Command) -> Self {
        let of_all = OfAll::new();
        // Positions in the order in which they are declared: the command is not built yet.
        let mut positions = 0..;
        let mut key = |arg: &Arg| {
            let long = arg.get_long().unwrap_or(arg.get_id().as_str()).to_string();
            let name = long.replace('-', "_");
            let takes = match (name.as_str(), arg.get_action()) {
                ("lora" | "refine_lora" | "distill", _) => Takes::Adapters,
                (_, ArgAction::SetTrue) => Takes::Flag,
                _ if arg.get_long().is_none() => {
                    Takes::Position(positions.next().unwrap_or_default())
                }
                _ => Takes::Value,
            };
            let aliases = arg.get_visible_aliases().unwrap_or_default();
            let aliases = aliases.iter().map(|alias| alias.replace('-', "_"));
            Key {
                name,
                long,
                takes,
                aliases: aliases.collect(),
            }
        };
        let own = command
            .get_arguments()
            .filter(|arg| !of_all.has(arg.get_id().as_str()));
        Self(own.map(&mut key).collect())
    }

    /// The key of this name; dashes are taken as well.
    pub fn find(&self, name: &str, command: &str) -> Result<&Key, RequestError> {
        let plain = name.replace('-', "_");
        let is = |key: &&Key| key.name == plain || key.aliases.contains(&plain);
        self.0.iter().find(is).ok_or_else(|| {
            if OfAll::new().has(&plain) {
                let reason = "is for all videos alike: an option of the command line";
                return RequestError::new(name, reason);
            }
            RequestError::new(
                name,
                format!("{command} takes no such key{}", self.near(name)),
            )
        })
    }

    /// What is near a name, as a question.
    pub fn near(&self, name: &str) -> String {
        /// Below this two names have little in common.
        const ALIKE: f64 = 0.75;
        let names = self.0.iter().map(|key| key.name.as_str());
        let alike = names.map(|known| (strsim::jaro_winkler(name, known), known));
        match alike.max_by(|(a, _), (b, _)| a.total_cmp(b)) {
            Some((share, known)) if share >= ALIKE => format!("; did you mean `{known}`?"),
            _ => String::new(),
        }
    }

    /// Refuses an object that lacks an argument which has no default.
    pub fn check_positions(&self, object: &Map<String, Value>) -> Result<(), RequestError> {
        let mut keys = self.0.iter();
        let missing = keys.find(|key| {
            matches!(key.takes, Takes::Position(_))
                && object.get(&key.name).is_none_or(Value::is_null)
        });
        match missing {
            Some(key) => Err(RequestError::new(key.name.as_str(), "is missing")),
            None => Ok(()),
        }
    }
}

/// What clap says of an argument, of its key.
pub fn told(error: &clap::Error) -> RequestError {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => Some(text),
        Some(ContextValue::Strings(all)) => all.first(),
        _ => None,
    };
    // As in `--size <WxH>` or `<IMAGE>`.
    let name = argument.map_or("", String::as_str);
    let name = name.trim_start_matches(|c: char| !c.is_alphanumeric());
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '-');
    let key = name[..end.unwrap_or(name.len())].replace('-', "_");
    let reason = match (error.kind(), error.source()) {
        (ErrorKind::MissingRequiredArgument, _) => "is missing".to_string(),
        (ErrorKind::ValueValidation, Some(cause)) => cause.to_string(),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.trim_start_matches("error: ").to_string()
        }
    };
    RequestError::new(key.to_lowercase(), reason)
}
