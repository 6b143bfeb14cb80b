//! Adapters.

use std::sync::Arc;

use axum::extract::multipart::MultipartRejection;
use axum::extract::{Multipart, Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::error::ApiError;
use super::form::{Folder, part_error, save};
use super::{TEXT_BYTES, blocking, json_response, ok};
use crate::app::App;
use crate::library::{Found, Source};

type Answer = Result<Response, ApiError>;

pub(super) async fn list(State(app): State<Arc<App>>) -> Answer {
    let list = |app: &App| {
        let all = app.library.list();
        let all: Vec<_> = all.iter().map(|found| app.library.show(found)).collect();
        Ok(json!({"object": "list", "data": all}))
    };
    Ok(ok(&blocking(&app, list).await?))
}

pub(super) async fn get(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let get = move |app: &App| Ok(app.library.show(&find(app, &id)?));
    Ok(ok(&blocking(&app, get).await?))
}

pub(super) async fn delete(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let delete = move |app: &App| {
        let found = find(app, &id)?;
        let whose = match &found.source {
            Source::Upload => None,
            Source::Folder => Some("is one of the server's own folder".to_string()),
            Source::Pulled(repository) => Some(format!("was pulled from {repository}")),
        };
        if let Some(whose) = whose {
            let message = format!("it {whose}, and not removed from here");
            return Err(ApiError::new(StatusCode::CONFLICT, message));
        }
        app.library.remove(&found).map_err(ApiError::server)?;
        Ok(json!({"id": id, "object": "adapter.deleted", "deleted": true, "status": null}))
    };
    Ok(ok(&blocking(&app, delete).await?))
}

fn find(app: &App, id: &str) -> Result<Found, ApiError> {
    let found = app.library.find(id);
    found.ok_or_else(|| ApiError::not_found("adapter"))
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    form: Result<Multipart, MultipartRejection>,
) -> Answer {
    let mut form =
        form.map_err(|error| ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error.body_text()))?;
    if app.hub.is_stopping() {
        return Err(ApiError::stopping());
    }
    let folder = Folder::new(&app)?;
    let mut name = None;
    let mut config = false;
    while let Some(mut part) = form.next_field().await.map_err(part_error)? {
        match part.name().unwrap_or_default() {
            "file" if name.is_none() => {
                name = Some(part.file_name().unwrap_or_default().to_string());
                let path = folder.path().join("adapter_model.safetensors");
                save(&mut part, &path, app.limits.adapter_bytes, "file").await?;
            }
            "config" if !config => {
                config = true;
                let path = folder.path().join("adapter_config.json");
                save(&mut part, &path, TEXT_BYTES as u64, "config").await?;
            }
            other => return Err(ApiError::bad(format!("{other:?} is no part of this form"))),
        }
    }
    let Some(name) = name else {
        return Err(ApiError::bad("a part `file` with the adapter is missing").with_param("file"));
    };
    let take = move |app: &App| {
        let path = match config {
            true => folder.path().to_path_buf(),
            false => {
                // The ending tells the format.
                let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
                let plain = ending.len() <= 20 && ending.bytes().all(|c| c.is_ascii_alphanumeric());
                let ending = if plain && !ending.is_empty() {
                    ending
                } else {
                    "safetensors"
                };
                let path = folder.path().join(format!("adapter.{ending}"));
                let saved = folder.path().join("adapter_model.safetensors");
                std::fs::rename(saved, &path).map_err(ApiError::server)?;
                path
            }
        };
        match app.library.take(&path, &name).map_err(ApiError::server)? {
            Ok(found) => Ok(app.library.show(&found)),
            Err(problems) => {
                let message = format!("the adapter cannot be used: {}", problems.join("; "));
                let error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message);
                Err(error.with_param("file").with_problems(problems))
            }
        }
    };
    let adapter = blocking(&app, take).await?;
    Ok(json_response(StatusCode::CREATED, &adapter))
}
