//! What the server is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::error::ApiError;
use super::{blocking, ok};
use crate::OPENAPI;
use crate::app::App;
use crate::store::Status;

pub(super) async fn options(State(app): State<Arc<App>>) -> Response {
    let (about, limits) = (&app.about, &app.limits);
    let defaults = &about.defaults;
    let sizes = about
        .sizes
        .iter()
        .map(|size| json!({"size": size.to_string(), "width": size.width, "height": size.height}));
    ok(&json!({
        "version": about.version,
        "model": about.model,
        "devices": about.devices,
        "dtype": about.dtype,
        "sizes": sizes.collect::<Vec<_>>(),
        "features": {"distill": about.distill, "refine": about.refine, "adapters": true},
        "defaults": {
            "size": defaults.size.to_string(),
            "frames": defaults.frames,
            "fps": defaults.fps,
            "cond_frames": defaults.cond_frames,
            "steps": defaults.steps,
            "guidance": defaults.guidance,
            "distill_steps": defaults.distill_steps,
            "distill_guidance": defaults.distill_guidance,
        },
        "limits": {
            "prompt_characters": limits.prompt_characters,
            "prompts": limits.prompts,
            "frames": limits.frames,
            "pixels": limits.pixels,
            "steps": limits.steps,
            "adapters": limits.adapters,
            "image_bytes": limits.image_bytes,
            "video_bytes": limits.video_bytes,
            "video_seconds": limits.video_seconds,
            "picture_pixels": limits.picture_pixels,
            "video_pixels": limits.video_pixels,
            "adapter_bytes": limits.adapter_bytes,
            "queue": limits.queue,
            "size_multiple": about.size_multiple,
            "frames_multiple": about.frames_multiple,
        },
    }))
}

pub(super) async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let health = |app: &App| {
        Ok(json!({
            "status": if app.hub.is_stopping() { "stopping" } else { "ok" },
            "queued": app.store.count(Status::Queued)?,
            "in_progress": app.store.count(Status::InProgress)?,
            "workers": app.about.devices.len().max(1),
        }))
    };
    Ok(ok(&blocking(&app, health).await?))
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let text = |app: &App| {
        let workers = app.about.devices.len().max(1);
        Ok(app.metrics.text(&app.store, app.limits.queue, workers)?)
    };
    let text = blocking(&app, text).await?;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

pub(super) async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
