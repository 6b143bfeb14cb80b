//! `POST /v1/videos`: a request becomes a job, or is refused before anything is kept of it.

use std::fs;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::de::IntoDeserializer;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::form::{Folder, part_error, save, text};
use super::videos::{find, show};
use super::{TEXT_BYTES, blocking, ok};
use crate::app::App;
use crate::hub::What;
use crate::id::new_id;
use crate::settings::{CreateVideo, Given};
use crate::store::{Added, NewVideo, Status, Video};
use crate::studio::{InputKind, JobFiles, Order};
use crate::upload;

/// Seconds after which to try again, where nothing tells how long a video takes.
const UNKNOWN: f64 = 30.0;
/// Bytes that a part of a form counts for, beside its name and text.
const PART_BYTES: usize = 64;
/// Where an upload is before it is known what it is.
const UPLOAD: &str = "upload";

/// A request that was read, with its upload.
struct Incoming {
    create: CreateVideo,
    /// With the upload, if there is one.
    folder: Folder,
    /// The part that the upload came in.
    upload: Option<&'static str>,
    key: Option<String>,
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    if app.hub.is_stopping() {
        return Err(ApiError::stopping());
    }
    let key = key(request.headers())?;
    if let Some(key) = key.clone() {
        let before = move |app: &App| match app.store.of_request(&key)? {
            Some(video) => Ok(Some(show(app, &video)?)),
            None => Ok(None),
        };
        if let Some(video) = blocking(&app, before).await? {
            return Ok(ok(&video));
        }
    }
    // Before an upload is taken in for nothing.
    blocking(&app, check_room).await?;
    let incoming = read(&app, request, key).await?;
    let turn = match incoming.upload {
        Some(_) => {
            let turn = app.decoding.clone().acquire_owned().await;
            Some(turn.map_err(ApiError::server)?)
        }
        None => None,
    };
    let accepted = move |app: &App| {
        // Goes on, with its turn, when the client leaves.
        let _turn = turn;
        show(app, &accept(app, incoming)?)
    };
    let video = blocking(&app, accepted).await?;
    app.bell.ring();
    Ok(ok(&video))
}

/// What the client calls its request.
fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match key.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= 200 => Ok(Some(key.to_string())),
        _ => Err(ApiError::bad(
            "Idempotency-Key: 1 to 200 characters are possible",
        )),
    }
}

fn check_room(app: &App) -> Result<(), ApiError> {
    match app.store.count(Status::Queued)? >= app.limits.queue {
        true => Err(full(app)),
        false => Ok(()),
    }
}

fn full(app: &App) -> ApiError {
    app.metrics.refused();
    let seconds = app.metrics.seconds_a_video().unwrap_or(UNKNOWN);
    let workers = app.about.devices.len().max(1) as f64;
    ApiError::full((seconds / workers).ceil().clamp(1.0, 3600.0) as u64)
}

async fn read(app: &Arc<App>, request: Request, key: Option<String>) -> Result<Incoming, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    let folder = Folder::new(app)?;
    match kind.as_str() {
        "application/json" => {
            let body = to_bytes(request.into_body(), TEXT_BYTES).await;
            let body = body.map_err(|error| match is_too_long(&error) {
                true => ApiError::too_large(format!("more than {TEXT_BYTES} bytes of JSON")),
                false => ApiError::bad("the request ends too early"),
            })?;
            let text = std::str::from_utf8(&body)
                .map_err(|_| ApiError::bad("the request is not UTF-8"))?;
            Ok(Incoming {
                create: from_text(text)?,
                folder,
                upload: None,
                key,
            })
        }
        "multipart/form-data" => {
            let form = Multipart::from_request(request, &()).await;
            let form = form.map_err(|error| ApiError::bad(error.body_text()))?;
            read_form(app, form, folder, key).await
        }
        _ => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send application/json or multipart/form-data",
        )),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(one) = cause {
        if one.to_string().contains("length limit") {
            return true;
        }
        cause = one.source();
    }
    false
}

async fn read_form(
    app: &Arc<App>,
    mut form: Multipart,
    folder: Folder,
    key: Option<String>,
) -> Result<Incoming, ApiError> {
    let limits = &app.limits;
    let mut whole = None;
    let mut members = Map::new();
    let mut prompts = Vec::new();
    let mut upload = None;
    let mut room = TEXT_BYTES;
    while let Some(mut part) = form.next_field().await.map_err(part_error)? {
        let name = part.name().unwrap_or_default().to_string();
        let uploads = [
            ("image", limits.image_bytes),
            ("video", limits.video_bytes),
            (
                "input_reference",
                limits.image_bytes.max(limits.video_bytes),
            ),
        ];
        if let Some((name, most)) = uploads.into_iter().find(|(known, _)| *known == name) {
            if upload.is_some() {
                return Err(ApiError::bad("more than one file is uploaded").with_param(name));
            }
            save(&mut part, &folder.path().join(UPLOAD), most, name).await?;
            upload = Some(name);
            continue;
        }
        // Parts without text are not free either.
        room = room.saturating_sub(name.len() + PART_BYTES);
        if room == 0 {
            let message = format!("more than {TEXT_BYTES} bytes beside the upload");
            return Err(ApiError::too_large(message));
        }
        let value = text(&mut part, room).await?;
        room -= value.len();
        match name.as_str() {
            "request" if whole.is_none() => whole = Some(value),
            "prompt" | "prompts" | "prompts[]" => prompts.push(value),
            _ if members.contains_key(&name) => {
                return Err(ApiError::bad("the part comes twice").with_param(name));
            }
            _ => {
                members.insert(name.clone(), member(&name, value));
            }
        }
    }
    let create = match whole {
        Some(text) if members.is_empty() && prompts.is_empty() => from_text(&text)?,
        Some(_) => {
            return Err(ApiError::bad(
                "`request` holds all: leave out other parts of text",
            ));
        }
        None => {
            match prompts.len() {
                0 => None,
                1 => members.insert("prompt".into(), Value::from(prompts.swap_remove(0))),
                _ => members.insert("prompts".into(), Value::from(prompts)),
            };
            from_value(Value::Object(members))?
        }
    };
    Ok(Incoming {
        create,
        folder,
        upload,
        key,
    })
}

/// A member of the request that came as a part: texts as they are, others as JSON.
fn member(name: &str, value: String) -> Value {
    const TEXTS: &[&str] = &[
        "mode",
        "negative_prompt",
        "size",
        "seconds",
        "cache",
        "from",
        "input_from",
        "model",
    ];
    match TEXTS.contains(&name) {
        true => Value::from(value),
        false => serde_json::from_str(value.trim()).unwrap_or(Value::from(value)),
    }
}

fn from_text(text: &str) -> Result<CreateVideo, ApiError> {
    let value = serde_json::from_str(text);
    from_value(value.map_err(|error| ApiError::bad(format!("the JSON cannot be read: {error}")))?)
}

fn from_value(value: Value) -> Result<CreateVideo, ApiError> {
    if !value.is_object() {
        return Err(ApiError::bad("an object is expected"));
    }
    serde_path_to_error::deserialize(value.into_deserializer()).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        let error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message);
        match path.as_str() {
            "." | "?" => error,
            _ => error.with_param(path),
        }
    })
}

/// Checks a request and puts it into the queue.
fn accept(app: &App, incoming: Incoming) -> Result<Video, ApiError> {
    let Incoming {
        create,
        folder,
        upload,
        key,
    } = incoming;
    let (input, prompt) = take_input(app, &create, &folder, upload)?;
    let settings = create.complete(&Given {
        about: &app.about,
        limits: &app.limits,
        input,
        prompt,
    })?;
    let order = Order {
        adapters: app.library.order(&settings.adapters)?,
        files: JobFiles::new(folder.path()),
        settings,
    };
    let planned = app.studio.check(&order)?;
    let id = new_id();
    let files = app.data.files(&id);
    let from = folder.keep();
    // What stays behind is swept at the next start.
    let undo = || {
        let _ = fs::remove_dir_all(&from);
        let _ = fs::remove_dir_all(files.folder());
    };
    app.data.accept(&from, &id).map_err(|error| {
        undo();
        ApiError::server(error)
    })?;
    let new = NewVideo {
        id: &id,
        settings: &order.settings,
        planned: &planned,
        key: key.as_deref(),
    };
    let added = app.store.add(&new, app.limits.queue);
    if !matches!(added, Ok(Added::New)) {
        undo();
    }
    match added? {
        Added::New => {
            app.hub.tell(&id, What::Status);
            find(app, &id)
        }
        Added::Full => Err(full(app)),
        Added::Before => {
            let before = app.store.of_request(key.as_deref().unwrap_or_default())?;
            before.ok_or_else(|| ApiError::not_found("video"))
        }
    }
}

/// What the video begins with: the upload is checked, files of an earlier job are linked. Says its kind, if
/// it was uploaded, and the prompt of the earlier job.
fn take_input(
    app: &App,
    create: &CreateVideo,
    folder: &Folder,
    upload: Option<&'static str>,
) -> Result<(Option<InputKind>, Option<String>), ApiError> {
    let conflict = |name: &str, message: &str| {
        Err(ApiError::new(StatusCode::CONFLICT, message).with_param(name))
    };
    let earlier = |name: &str, id: &str| {
        find(app, id).map_err(|_| {
            let message = format!("there is no video {id:?}");
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message).with_param(name)
        })
    };
    let given = [
        upload.is_some(),
        create.from.is_some(),
        create.input_from.is_some(),
    ];
    if given.iter().filter(|given| **given).count() > 1 {
        let message = "an upload, `from` and `input_from` are given; leave one";
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message).with_param("from"));
    }
    let link = |from: &std::path::Path, name: &str| {
        upload::link(from, folder.path().join(name)).map_err(ApiError::server)
    };
    if let Some(id) = &create.from {
        let video = earlier("from", id)?;
        let files = app.data.files(&video.id);
        if video.status != Status::Completed || !files.video().is_file() {
            return conflict("from", "the earlier video is not finished");
        }
        link(&files.video(), "input.mp4")?;
        if files.latents().is_file() {
            link(&files.latents(), "input.safetensors")?;
        }
        return Ok((None, video.settings.prompts.last().cloned()));
    }
    if let Some(id) = &create.input_from {
        let video = earlier("input_from", id)?;
        let Some((kind, path)) = app.data.files(&video.id).input() else {
            return conflict("input_from", "the earlier job has no upload");
        };
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        link(&path, &name)?;
        return Ok((Some(kind), None));
    }
    let Some(param) = upload else {
        return Ok((None, None));
    };
    let path = folder.path().join(UPLOAD);
    let kind = upload::take(&path, param, &app.limits).map_err(ApiError::server)??;
    Ok((Some(kind), None))
}
