//! A job as it is kept, and its row.

use rusqlite::Row;

use crate::studio::Planned;
use crate::{Mode, ServeError, Settings};

/// What the error of a job is called whose row cannot be read.
pub(super) const UNREADABLE: &str = "unreadable";

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Status {
    Queued,
    InProgress,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    pub(crate) const ALL: [Self; 5] = [
        Self::Queued,
        Self::InProgress,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether nothing more happens to the job.
    pub(crate) fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::InProgress)
    }
}

/// A job as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Video {
    pub(crate) seq: i64,
    pub(crate) id: String,
    pub(crate) status: Status,
    pub(crate) settings: Settings,
    pub(crate) planned: Planned,
    pub(crate) created_at: i64,
    pub(crate) started_at: Option<i64>,
    pub(crate) completed_at: Option<i64>,
    pub(crate) error: Option<(String, String)>,
}

/// A row as a job.
pub(super) fn read(row: &Row<'_>) -> Result<Video, ServeError> {
    let status: String = row.get("status")?;
    let settings: String = row.get("settings")?;
    let planned: String = row.get("planned")?;
    let code: Option<String> = row.get("error_code")?;
    let message: Option<String> = row.get("error_message")?;
    Ok(Video {
        seq: row.get("seq")?,
        id: row.get("id")?,
        status: Status::parse(&status).ok_or(ServeError::Status(status))?,
        settings: serde_json::from_str(&settings)?,
        planned: serde_json::from_str(&planned)?,
        created_at: row.get("created_at")?,
        started_at: row.get("started_at")?,
        completed_at: row.get("completed_at")?,
        error: code.zip(message),
    })
}

/// A row as it is shown: one that cannot be read is a failed job that says so, and hides no other.
pub(super) fn shown(row: &Row<'_>) -> Video {
    read(row).unwrap_or_else(|error| unreadable(row, &error))
}

fn unreadable(row: &Row<'_>, error: &ServeError) -> Video {
    let number = |name: &str| row.get::<_, Option<i64>>(name).ok().flatten();
    let id = row.get_ref("id").ok().and_then(|id| id.as_bytes().ok());
    let message = format!("the job cannot be read ({error}); its files stay until it is removed");
    Video {
        seq: number("seq").unwrap_or_default(),
        id: String::from_utf8_lossy(id.unwrap_or_default()).into_owned(),
        status: Status::Failed,
        settings: Settings {
            mode: Mode::Text,
            prompts: vec![String::new()],
            negative_prompt: String::new(),
            size: None,
            frames: None,
            seed: 0,
            steps: None,
            guidance: None,
            distill: false,
            refine: false,
            spatial_only: false,
            cond_frames: None,
            cache: None,
            adapters: Vec::new(),
            from: None,
            input: None,
        },
        planned: Planned {
            width: 0,
            height: 0,
            frames: 0,
            fps: 1.0,
            warnings: Vec::new(),
        },
        created_at: number("created_at").unwrap_or_default(),
        started_at: number("started_at"),
        completed_at: number("completed_at"),
        error: Some((UNREADABLE.into(), message)),
    }
}
