//! A local server that makes videos: a queue that survives a restart, an HTTP API in the shape of
//! OpenAI's video endpoints, and a page.

/// The description of the API, as it is served at `/openapi.json`.
pub const OPENAPI: &str = include_str!("../openapi.json");
