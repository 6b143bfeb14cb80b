//! Who may ask: what every request passes first and every answer last.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::linger::Lingering;
use super::page;
use super::timely::{Late, Timely};
use crate::app::App;

/// The cookie that the page has the token in.
pub(super) const COOKIE: &str = "longcat_token";

/// Scripts, styles and pictures come from here only, and no other page shows this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
    media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let late = Late::default();
    let request = request.map(|body| {
        let timely = Timely::new(body, &app.limits, late.clone());
        Body::new(Lingering::new(Body::new(timely)))
    });
    let refused = check(&app, &request);
    let mut response = match refused {
        Ok(()) => next.run(request).await,
        Err(response) => *response,
    };
    if late.is_set() && !response.status().is_success() {
        let message = "the request came too slowly; send it again";
        response = ApiError::new(StatusCode::REQUEST_TIMEOUT, message).into_response();
    }
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().entry(name).or_insert(value);
    }
    app.metrics.answered(response.status().as_u16());
    response
}

fn check(app: &App, request: &Request) -> Result<(), Box<Response>> {
    let refuse = |error: ApiError| Box::new(error.into_response());
    check_host(app, request).map_err(refuse)?;
    check_origin(request).map_err(refuse)?;
    let Some(token) = &app.token else {
        return Ok(());
    };
    let path = request.uri().path();
    let given = bearer(request.headers()).or_else(|| cookie(request.headers()));
    // The page's files are the program's, and also what asks for the token is made of them.
    let free = path == "/health" || path.starts_with("/page/");
    if free || given.is_some_and(|given| is_same(given, token)) {
        return Ok(());
    }
    if path == "/" {
        return match page::token_of(request.uri()) {
            Some(given) if is_same(&given, token) => Err(Box::new(page::with_cookie(&given))),
            _ => Err(Box::new(page::ask())),
        };
    }
    let message =
        "a token is needed: the header `Authorization: Bearer TOKEN`, or the page's cookie";
    Err(refuse(ApiError::new(StatusCode::UNAUTHORIZED, message)))
}

fn forbidden(message: &str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, message)
}

/// A page of another site may have its own name lead here (DNS rebinding): without a token only names
/// that no site has are answered.
fn check_host(app: &App, request: &Request) -> Result<(), ApiError> {
    let Some(host) = host(request) else {
        return Err(forbidden("the request does not say which host it is for"));
    };
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    let local = name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match local || app.token.is_some() {
        true => Ok(()),
        false => Err(forbidden(
            "the server is asked for under another name than localhost; serve with --token to allow it",
        )),
    }
}

fn host(request: &Request) -> Option<Authority> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.clone());
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next()?;
    // One that other programs may read otherwise is none.
    match hosts.next() {
        None => host.to_str().ok()?.parse().ok(),
        Some(_) => None,
    }
}

/// Pages of other sites can send requests, but not read the answers: what changes something is refused.
fn check_origin(request: &Request) -> Result<(), ApiError> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    let refused = || forbidden("the request comes from a page of another site");
    if let Some(origin) = request.headers().get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let from = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        let same = host(request)
            .is_some_and(|host| from.is_some_and(|from| from.eq_ignore_ascii_case(host.as_str())));
        if !same {
            return Err(refused());
        }
    }
    match request.headers().get("sec-fetch-site") {
        Some(site) if site != "same-origin" && site != "none" => Err(refused()),
        _ => Ok(()),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
}

/// In a time that tells nothing of where two texts differ.
fn is_same(given: &str, token: &str) -> bool {
    let pairs = given.bytes().zip(token.bytes());
    given.len() == token.len() && pairs.fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
