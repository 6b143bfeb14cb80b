//! Parts of multipart requests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::multipart::{Field, MultipartError};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::error::ApiError;
use crate::app::App;

/// A folder for what is not accepted yet; it goes when it is dropped.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new(app: &Arc<App>) -> Result<Self, ApiError> {
        let folder = app.data.new_incoming();
        Ok(Self(folder.map_err(ApiError::server)?))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// It stays, for the caller to move.
    pub(super) fn keep(self) -> PathBuf {
        self.0.keep()
    }
}

pub(super) fn part_error(error: MultipartError) -> ApiError {
    match error.status() {
        axum::http::StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(error.body_text()),
        status if status.is_server_error() => ApiError::server(error.body_text()),
        _ => ApiError::bad(error.body_text()),
    }
}

/// Writes a part to a file as it comes, to the disk.
pub(super) async fn save(
    part: &mut Field<'_>,
    path: &Path,
    most: u64,
    name: &str,
) -> Result<u64, ApiError> {
    let mut file = tokio::fs::File::create(path)
        .await
        .map_err(ApiError::server)?;
    let mut bytes = 0;
    while let Some(chunk) = part.chunk().await.map_err(part_error)? {
        bytes += chunk.len() as u64;
        if bytes > most {
            let message = format!("more than {most} bytes");
            return Err(ApiError::too_large(message).with_param(name));
        }
        file.write_all(&chunk).await.map_err(ApiError::server)?;
    }
    file.flush().await.map_err(ApiError::server)?;
    file.sync_all().await.map_err(ApiError::server)?;
    if bytes == 0 {
        return Err(ApiError::bad("the file is empty").with_param(name));
    }
    Ok(bytes)
}

/// A part that is a text.
pub(super) async fn text(part: &mut Field<'_>, most: usize) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(part_error)? {
        if bytes.len() + chunk.len() > most {
            return Err(ApiError::too_large(format!(
                "more than {most} bytes of text"
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| ApiError::bad("a part of text is not UTF-8"))
}
