//! The page, its files, and how a browser gets the token.

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::guard::COOKIE;
use crate::page::{INDEX, TOKEN, page_file};

/// Another version of the program has other files under the same names.
const ALWAYS_ASK: &str = "no-cache";

pub(super) async fn page() -> Response {
    html(StatusCode::OK, INDEX)
}

pub(super) async fn file(Path(name): Path<String>) -> Result<Response, ApiError> {
    let file = page_file(&name).ok_or_else(|| ApiError::not_found("file"))?;
    let headers = [
        (header::CONTENT_TYPE, file.media_type),
        (header::CACHE_CONTROL, ALWAYS_ASK),
    ];
    Ok((headers, file.text).into_response())
}

/// The token in the address of the page.
pub(super) fn token_of(uri: &Uri) -> Option<String> {
    let pairs = uri
        .query()?
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    // A token has no sign that an address would change.
    let mut pairs = pairs.filter(|(name, _)| *name == "token");
    pairs.next().map(|(_, value)| value.to_string())
}

/// Has the browser keep the token, and leads to the page, whose address does not show it.
pub(super) fn with_cookie(token: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_static("/"));
    let cookie = format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.insert(header::SET_COOKIE, cookie);
    }
    response
}

pub(super) fn ask() -> Response {
    html(StatusCode::UNAUTHORIZED, TOKEN)
}

fn html(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    let caching = HeaderValue::from_static(ALWAYS_ASK);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, caching);
    response
}
