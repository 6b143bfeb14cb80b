//! Orders of a server's clients as requests, and errors as they are told to them.

use longcat_cli::printable;
use longcat_serve::{InputKind, MakeError, Mode, Order, OrderedAdapter, Refusal};
use longcat_video::{LoraScope, VideoError};
use serde_json::{Map, Value};

use crate::failure::{device_error, video_error};
use crate::lora_arg::LoraArg;
use crate::request::{Folders, Request, RequestError};

/// The request that an order is.
///
/// # Errors
/// Names the setting at fault as clients call it.
pub fn request(order: &Order) -> Result<Request, Refusal> {
    let object = object(order)?;
    let folder = order.files.folder();
    let folders = Folders {
        inputs: folder,
        outputs: folder,
    };
    let told = |error: RequestError| Refusal::of(param(&error.key), error.reason);
    let mut request = Request::read(&object, folders, "video.mp4").map_err(told)?;
    let adapters = order.adapters.iter().enumerate().map(lora);
    request.model_mut().loras = adapters.collect::<Result<_, _>>()?;
    let output = request.output_mut();
    // What an earlier run of the same job has left is in its folder.
    output.file.overwrite = true;
    if !order.settings.is_long() {
        output.save_latents = Some(order.files.latents());
    }
    Ok(request)
}

/// An adapter of an order, with its place in it.
fn lora((index, adapter): (usize, &OrderedAdapter)) -> Result<LoraArg, Refusal> {
    let scope = match adapter.scope.as_str() {
        "" => LoraScope::default(),
        scope => format!("@{scope}")
            .parse::<LoraScope>()
            .map_err(|error| Refusal::of(format!("adapters[{index}].scope"), error.to_string()))?,
    };
    Ok(LoraArg {
        path: adapter.path.clone(),
        strength: adapter.strength,
        scope,
    })
}

/// The settings of an order under the names of the command line's options.
fn object(order: &Order) -> Result<Map<String, Value>, Refusal> {
    let settings = &order.settings;
    let long = settings.is_long();
    let refines = settings.mode == Mode::Refine;
    let command = match settings.mode {
        Mode::Text if long => "long",
        Mode::Text => "t2v",
        Mode::Image => "i2v",
        Mode::Continue => "continue",
        Mode::Refine => "refine",
    };
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_string(), value);
    put("command", command.into());
    match long {
        true => put("prompts", settings.prompts.clone().into()),
        false => put("prompt", settings.prompts.first().cloned().into()),
    };
    put("seed", settings.seed.into());
    put("size", settings.size.clone().into());
    put("steps", settings.steps.into());
    put("cache", settings.cache.clone().into());
    if refines {
        put("spatial_only", settings.spatial_only.into());
    } else {
        put("frames", settings.frames.into());
        put("guidance", settings.guidance.into());
        put("distill", settings.distill.into());
        put("refine", settings.refine.into());
        put("negative", settings.negative_prompt.clone().into());
    }
    if long || settings.mode == Mode::Continue {
        put("cond_frames", settings.cond_frames.into());
    }
    if let Some((kind, path)) = order.files.input() {
        let Some(path) = path.to_str() else {
            let message = format!("{}: the folder is no UTF-8 text", path.display());
            return Err(Refusal {
                param: None,
                message,
            });
        };
        match kind {
            InputKind::Image => put("image", path.into()),
            InputKind::Video => put("video", path.into()),
        };
    }
    Ok(object)
}

/// Why an order is refused, from the error of checking it.
pub fn refusal(error: &anyhow::Error, order: &Order) -> Refusal {
    Refusal {
        param: match video_error(error) {
            Some(VideoError::Invalid { what, .. }) => Some(param(what)),
            _ => None,
        },
        message: words(error, order),
    }
}

/// Why an order was not made.
pub fn make_error(error: &anyhow::Error, order: &Order) -> MakeError {
    let message = words(error, order);
    match video_error(error) {
        Some(VideoError::Cancelled) => return MakeError::Cancelled,
        Some(VideoError::Invalid { .. } | VideoError::DoesNotFit(_)) => {
            return MakeError::Invalid(message);
        }
        _ => {}
    }
    match device_error(error) {
        Some(failed) if failed.fault.requested().is_some() || is_memory(&message) => {
            MakeError::OutOfMemory(message)
        }
        Some(_) => MakeError::Device(message),
        None => MakeError::Failed(message),
    }
}

fn is_memory(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("out of memory") || message.contains("out_of_memory")
}

/// What the command line would say; where the files lie is nobody's business.
fn words(error: &anyhow::Error, order: &Order) -> String {
    let adapters = order.adapters.iter();
    let adapters = adapters.filter_map(|adapter| adapter.path.parent());
    let folders = adapters.chain([order.files.folder()]);
    let words = folders.fold(format!("{error:#}"), |words, folder| {
        words.replace(&format!("{}/", folder.display()), "")
    });
    printable(&words).to_string()
}

/// What clients call a setting.
fn param(name: &str) -> String {
    match name {
        "lora" => "adapters".into(),
        "negative" => "negative_prompt".into(),
        "condition frames" => "cond_frames".into(),
        name => name.replace([' ', '-'], "_"),
    }
}
