//! The HTTP interface.

mod about;
mod adapters;
mod connections;
mod create;
mod error;
mod events;
mod form;
mod guard;
mod linger;
mod page;
mod timely;
mod videos;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;
use serde_json::Value;

use crate::app::App;
use error::ApiError;

pub(crate) use connections::serve;

/// Bytes of a request beside its upload.
pub(crate) const TEXT_BYTES: usize = 1 << 20;

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let limits = &app.limits;
    let most = |upload: u64| {
        let bytes = usize::try_from(upload).unwrap_or(usize::MAX);
        DefaultBodyLimit::max(bytes.saturating_add(2 * TEXT_BYTES))
    };
    let video = most(limits.video_bytes.max(limits.image_bytes));
    let adapter = most(limits.adapter_bytes);
    Router::new()
        .route(
            "/v1/videos",
            get(videos::list).post(create::create).layer(video),
        )
        .route("/v1/videos/{id}", get(videos::get).delete(videos::delete))
        .route("/v1/videos/{id}/content", get(videos::content))
        .route("/v1/videos/{id}/latents", get(videos::latents))
        .route("/v1/videos/{id}/settings", get(videos::settings))
        .route("/v1/videos/{id}/thumbnail", get(videos::thumbnail))
        .route("/v1/videos/{id}/preview", get(videos::preview))
        .route("/v1/videos/{id}/input", get(videos::input))
        .route("/v1/videos/{id}/events", get(events::of_one))
        .route("/v1/events", get(events::of_all))
        .route(
            "/v1/adapters",
            get(adapters::list).post(adapters::create).layer(adapter),
        )
        .route(
            "/v1/adapters/{id}",
            get(adapters::get).delete(adapters::delete),
        )
        .route("/v1/options", get(about::options))
        .route("/health", get(about::health))
        .route("/metrics", get(about::metrics))
        .route("/openapi.json", get(about::description))
        .route("/", get(page::page))
        .route("/page/{file}", get(page::file))
        .fallback(|| async { ApiError::not_found("page") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "the address does not take this method",
            )
        })
        .layer(from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}

/// Does what waits for files or the database, where nothing else waits for it.
async fn blocking<T: Send + 'static>(
    app: &Arc<App>,
    act: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let app = app.clone();
    let done = tokio::task::spawn_blocking(move || act(&app)).await;
    done.unwrap_or_else(|panic| Err(ApiError::server(panic)))
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn ok(value: &Value) -> Response {
    json_response(StatusCode::OK, value)
}
