//! Jobs and their files.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use longcat_media::read_metadata;
use serde::Deserialize;
use serde_json::{Value, json};
use tower_http::services::ServeFile;

use super::error::ApiError;
use super::{blocking, ok};
use crate::app::App;
use crate::hub::What;
use crate::id::is_id;
use crate::store::{Listing, Removed, Status, Video};

/// Videos that are listed at once at most, and where nothing is said.
const LISTED: (usize, usize) = (100, 20);

type Answer = Result<Response, ApiError>;

/// A job as the API shows it.
pub(super) fn show(app: &App, video: &Video) -> Result<Value, ApiError> {
    let (settings, planned) = (&video.settings, &video.planned);
    let files = app.data.files(&video.id);
    let live = app.hub.progress(&video.id);
    let live = live.as_ref().filter(|_| video.status == Status::InProgress);
    let stage = live.filter(|live| !live.stage_name().is_empty());
    let progress = match video.status {
        Status::Completed => 100.0,
        _ => live.map_or(0.0, |live| live.percent()),
    };
    let position = match video.status {
        Status::Queued => Some(app.store.position(video)?),
        _ => None,
    };
    let seconds = planned.frames as f64 / planned.fps;
    let completed = video.status == Status::Completed;
    let error = video.error.as_ref();
    Ok(json!({
        "id": video.id,
        "object": "video",
        "status": video.status.name(),
        "mode": settings.mode,
        "progress": progress,
        "stage": stage.map(|live| live.stage_name()),
        "step": stage.map(|live| live.done),
        "steps": stage.map(|live| live.total),
        "segment": live.and_then(|live| live.segment_number()),
        "segments": live.and_then(|live| live.segments()),
        "eta": live.and_then(|live| live.eta()),
        "position": position,
        "created_at": video.created_at,
        "started_at": video.started_at,
        "completed_at": video.completed_at,
        "model": app.about.model,
        "prompt": settings.prompts.first(),
        "size": format!("{}x{}", planned.width, planned.height),
        "frames": planned.frames,
        "fps": planned.fps,
        "seconds": format!("{}", (10.0 * seconds).round() / 10.0),
        "remixed_from_video_id": settings.from,
        "settings": settings,
        "warnings": planned.warnings,
        "error": error.map(|(code, message)| json!({"code": code, "message": message})),
        "files": {
            "content": completed && files.video().is_file(),
            "latents": files.latents().is_file(),
            "thumbnail": completed && files.thumbnail().is_file(),
            "preview": !video.status.is_final() && files.preview().is_file(),
            "input": files.input().is_some(),
        },
    }))
}

/// The job of an id.
pub(super) fn find(app: &App, id: &str) -> Result<Video, ApiError> {
    app.store
        .get(id)?
        .ok_or_else(|| ApiError::not_found("video"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    after: Option<String>,
    order: Option<Order>,
    status: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Order {
    Asc,
    Desc,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|error| ApiError::bad(error.body_text()))?;
    let refused = |param: &str, message: String| {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message).with_param(param)
    };
    let limit = query.limit.unwrap_or(LISTED.1);
    if limit == 0 || limit > LISTED.0 {
        let message = format!("1 to {} are possible", LISTED.0);
        return Err(refused("limit", message));
    }
    if let Some(id) = query.after.as_ref().filter(|id| !is_id(id)) {
        return Err(refused("after", format!("{id:?} is no id of a video")));
    }
    let status = match query.status.as_deref() {
        None => None,
        Some(name) => {
            let status = Status::parse(name);
            Some(status.ok_or_else(|| refused("status", format!("there is no status {name:?}")))?)
        }
    };
    let listing = Listing {
        limit,
        after: query.after,
        ascending: query.order == Some(Order::Asc),
        status,
    };
    let list = move |app: &App| {
        let listed = app.store.list(&listing)?;
        let videos = listed.videos.iter().map(|video| show(app, video));
        let videos = videos.collect::<Result<Vec<_>, _>>()?;
        let id = |video: Option<&Video>| video.map(|video| video.id.clone());
        Ok(json!({
            "object": "list",
            "first_id": id(listed.videos.first()),
            "last_id": id(listed.videos.last()),
            "data": videos,
            "has_more": listed.has_more,
            "total": listed.total,
        }))
    };
    Ok(ok(&blocking(&app, list).await?))
}

pub(super) async fn get(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let video = blocking(&app, move |app| show(app, &find(app, &id)?)).await?;
    Ok(ok(&video))
}

pub(super) async fn delete(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let delete = move |app: &App| {
        let removed = app.store.remove(&id)?;
        let status = match removed {
            Removed::Unknown => return Err(ApiError::not_found("video")),
            Removed::Cancelled => Some(Status::Cancelled),
            Removed::Running => {
                app.hub.cancel(&id);
                Some(Status::InProgress)
            }
            Removed::Gone => {
                // What stays behind is swept at the next start.
                let _ = std::fs::remove_dir_all(app.data.files(&id).folder());
                None
            }
        };
        let gone = removed == Removed::Gone;
        app.hub
            .tell(&id, if gone { What::Removed } else { What::Status });
        Ok(json!({
            "id": id,
            "object": "video.deleted",
            "deleted": gone,
            "status": status.map(Status::name),
        }))
    };
    Ok(ok(&blocking(&app, delete).await?))
}

pub(super) async fn settings(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let name = attachment(&format!("{id}.json"));
    let settings = move |app: &App| {
        let video = find(app, &id)?;
        let path = app.data.files(&id).video();
        // A video of another maker tells nothing.
        let made = match path.is_file() {
            true => read_metadata(&path).ok().flatten(),
            false => None,
        };
        let made = made.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let made = made.filter(Value::is_object);
        Ok(json!({"id": id, "request": video.settings, "made": made}))
    };
    let mut response = ok(&blocking(&app, settings).await?);
    response
        .headers_mut()
        .insert(header::CONTENT_DISPOSITION, name?);
    Ok(response)
}

#[derive(Deserialize)]
pub(super) struct ContentQuery {
    #[serde(default)]
    variant: Variant,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Variant {
    #[default]
    Video,
    Thumbnail,
}

pub(super) async fn content(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: Result<Query<ContentQuery>, QueryRejection>,
    request: Request,
) -> Answer {
    let Query(query) = query.map_err(|error| {
        let error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error.body_text());
        error.with_param("variant")
    })?;
    if query.variant == Variant::Thumbnail {
        return thumbnail(State(app), Path(id), request).await;
    }
    let name = format!("{id}.mp4");
    let path = of_completed(&app, id, |files| files.video()).await?;
    send(path, &name, false, request).await
}

pub(super) async fn thumbnail(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let name = format!("{id}.jpg");
    let path = of_completed(&app, id, |files| files.thumbnail()).await?;
    send(path, &name, false, request).await
}

pub(super) async fn latents(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let name = format!("{id}.safetensors");
    let path = move |app: &App| {
        find(app, &id)?;
        there(
            app.data.files(&id).latents(),
            "the latents are not finished",
        )
    };
    let path = blocking(&app, path).await?;
    send(path, &name, true, request).await
}

pub(super) async fn preview(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let name = format!("{id}.webp");
    let path = move |app: &App| {
        find(app, &id)?;
        there(app.data.files(&id).preview(), "there is no preview now")
    };
    let path = blocking(&app, path).await?;
    let mut response = send(path, &name, false, request).await?;
    let value = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, value);
    Ok(response)
}

pub(super) async fn input(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let path = move |app: &App| {
        find(app, &id)?;
        let input = app.data.files(&id).input_with_type();
        let (_, media_type, path) = input.ok_or_else(|| ApiError::not_found("upload"))?;
        Ok((media_type, path))
    };
    let (media_type, path) = blocking(&app, path).await?;
    let name = path.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let mut response = send(path, &name, false, request).await?;
    if response.status().is_success() {
        let value = HeaderValue::from_static(media_type);
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    Ok(response)
}

/// A file that there is once the video is made.
async fn of_completed(
    app: &Arc<App>,
    id: String,
    file: impl FnOnce(crate::JobFiles) -> PathBuf + Send + 'static,
) -> Result<PathBuf, ApiError> {
    let path = move |app: &App| {
        let video = find(app, &id)?;
        let message = format!("the video is not there: it is {}", video.status.name());
        match video.status {
            Status::Completed => there(file(app.data.files(&id)), "the file is gone"),
            _ => Err(ApiError::new(StatusCode::CONFLICT, message)),
        }
    };
    blocking(app, path).await
}

fn there(path: PathBuf, otherwise: &str) -> Result<PathBuf, ApiError> {
    match path.is_file() {
        true => Ok(path),
        false => Err(ApiError::new(StatusCode::CONFLICT, otherwise)),
    }
}

/// A file, or the part of it that is asked for.
async fn send(path: PathBuf, name: &str, save: bool, request: Request) -> Answer {
    let mut request = request.map(|_| Body::empty());
    // A file is served whatever its age: the names stay, the contents may not.
    for condition in [header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE] {
        request.headers_mut().remove(condition);
    }
    let sent = ServeFile::new(path).try_call(request).await;
    let mut response = sent.map_err(ApiError::server)?.map(Body::new);
    if response.status() == StatusCode::NOT_FOUND {
        // A moment ago it was there: the preview of a job that has ended, a video that was removed.
        return Err(ApiError::new(StatusCode::CONFLICT, "the file is gone"));
    }
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        let range = response.headers().get(header::CONTENT_RANGE).cloned();
        let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "there is no such part");
        response = axum::response::IntoResponse::into_response(error);
        if let Some(range) = range {
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
        return Ok(response);
    }
    let disposition = match save {
        true => attachment(name)?,
        false => {
            let text = format!("inline; filename=\"{name}\"");
            HeaderValue::from_str(&text).map_err(ApiError::server)?
        }
    };
    response
        .headers_mut()
        .insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

fn attachment(name: &str) -> Result<HeaderValue, ApiError> {
    let text = format!("attachment; filename=\"{name}\"");
    // Only an id that is none has signs that a header cannot hold.
    HeaderValue::from_str(&text).map_err(|_| ApiError::not_found("video"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[test]
    fn a_file_that_goes_meanwhile_is_told_of_as_one_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("preview.webp");
        let sent = send(path, "preview.webp", false, Request::new(Body::empty()));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let error = runtime.block_on(sent).unwrap_err();
        assert_eq!(error.into_response().status(), StatusCode::CONFLICT);
    }
}
