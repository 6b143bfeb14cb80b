//! Jobs and their settings in SQLite.

mod video;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::studio::{JobFiles, MakeError, Planned};
use crate::{ServeError, Settings};

pub(crate) use video::{Status, Video};
use video::{UNREADABLE, read, shown};

/// How often a job is begun before the server gives it up: it may be what ends the server.
const ATTEMPTS: u32 = 3;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS videos (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL,
        settings TEXT NOT NULL,
        planned TEXT NOT NULL,
        request_key TEXT UNIQUE,
        created_at INTEGER NOT NULL,
        started_at INTEGER,
        completed_at INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        error_code TEXT,
        error_message TEXT
    );
    CREATE INDEX IF NOT EXISTS videos_by_status ON videos (status, seq);
";

/// A job that is not kept yet.
pub(crate) struct NewVideo<'a> {
    pub(crate) id: &'a str,
    pub(crate) settings: &'a Settings,
    pub(crate) planned: &'a Planned,
    /// What the client calls the request.
    pub(crate) key: Option<&'a str>,
}

/// What became of a new job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is kept.
    New,
    /// The request was made before.
    Before,
    /// Too many wait.
    Full,
}

/// Which jobs are listed.
pub(crate) struct Listing {
    pub(crate) limit: usize,
    pub(crate) after: Option<String>,
    pub(crate) ascending: bool,
    pub(crate) status: Option<Status>,
}

/// A part of the jobs.
pub(crate) struct Listed {
    pub(crate) videos: Vec<Video>,
    pub(crate) has_more: bool,
    pub(crate) total: usize,
}

/// What DELETE did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// There is no such job.
    Unknown,
    /// It was waiting and is cancelled.
    Cancelled,
    /// It is being made.
    Running,
    /// It is gone.
    Gone,
}

/// The jobs. Every change is on disk when its method returns.
pub(crate) struct Store {
    connection: Mutex<Connection>,
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, ServeError> {
        let connection = Connection::open(path)?;
        // A job is accepted when it cannot be lost, also by a loss of power.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&mut Connection) -> Result<T, ServeError>,
    ) -> Result<T, ServeError> {
        // A panic while it was locked has rolled back what was not committed.
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        act(&mut connection)
    }

    /// Puts a job into the queue, unless `most` wait already.
    pub(crate) fn add(&self, new: &NewVideo<'_>, most: usize) -> Result<Added, ServeError> {
        self.with(|connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let known: bool = change.query_row(
                "SELECT EXISTS (SELECT 1 FROM videos WHERE request_key = ?1)",
                params![new.key],
                |row| row.get(0),
            )?;
            if known {
                return Ok(Added::Before);
            }
            if count(&change, Status::Queued)? >= most {
                return Ok(Added::Full);
            }
            change.execute(
                "INSERT INTO videos (id, status, settings, planned, request_key, created_at) \
                 VALUES (?1, 'queued', ?2, ?3, ?4, ?5)",
                params![
                    new.id,
                    serde_json::to_string(new.settings)?,
                    serde_json::to_string(new.planned)?,
                    new.key,
                    now()
                ],
            )?;
            change.commit()?;
            Ok(Added::New)
        })
    }

    /// The job that a request made.
    pub(crate) fn of_request(&self, key: &str) -> Result<Option<Video>, ServeError> {
        self.one("SELECT * FROM videos WHERE request_key = ?1", key)
    }

    pub(crate) fn get(&self, id: &str) -> Result<Option<Video>, ServeError> {
        self.one("SELECT * FROM videos WHERE id = ?1", id)
    }

    fn one(&self, query: &str, key: &str) -> Result<Option<Video>, ServeError> {
        self.with(|connection| {
            let mut query = connection.prepare(query)?;
            let found = query.query_row(params![key], |row| Ok(shown(row)));
            Ok(found.optional()?)
        })
    }

    pub(crate) fn list(&self, listing: &Listing) -> Result<Listed, ServeError> {
        self.with(|connection| {
            let status = listing.status.map(Status::name);
            let (order, beyond) = match listing.ascending {
                true => ("ASC", ">"),
                false => ("DESC", "<"),
            };
            let query = format!(
                "SELECT * FROM videos WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR seq {beyond} \
                 (SELECT seq FROM videos WHERE id = ?2)) ORDER BY seq {order} LIMIT ?3"
            );
            let mut query = connection.prepare(&query)?;
            let rows = query.query_map(
                params![status, listing.after, listing.limit as i64 + 1],
                |row| Ok(shown(row)),
            )?;
            let mut videos = rows.collect::<Result<Vec<_>, _>>()?;
            let has_more = videos.len() > listing.limit;
            videos.truncate(listing.limit);
            let total: i64 = connection.query_row(
                "SELECT COUNT(*) FROM videos WHERE ?1 IS NULL OR status = ?1",
                params![status],
                |row| row.get(0),
            )?;
            Ok(Listed {
                videos,
                has_more,
                total: usize::try_from(total).unwrap_or(0),
            })
        })
    }

    /// How many jobs are in a state.
    pub(crate) fn count(&self, status: Status) -> Result<usize, ServeError> {
        self.with(|connection| count(connection, status))
    }

    /// How many jobs wait before a waiting one.
    pub(crate) fn position(&self, video: &Video) -> Result<usize, ServeError> {
        self.with(|connection| {
            let before: i64 = connection.query_row(
                "SELECT COUNT(*) FROM videos WHERE status = 'queued' AND seq < ?1",
                params![video.seq],
                |row| row.get(0),
            )?;
            Ok(usize::try_from(before).unwrap_or(0))
        })
    }

    /// Takes the next job out of the queue. `follow` is called before anybody can learn that it was begun,
    /// so that nobody asks to cancel it and is not heard.
    pub(crate) fn begin<T>(
        &self,
        follow: impl FnOnce(&str) -> T,
    ) -> Result<Option<(Video, T)>, ServeError> {
        self.with(|connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let begun = loop {
                let found = change
                    .prepare(
                        "UPDATE videos SET status = 'in_progress', started_at = ?1, attempts = attempts + 1 \
                         WHERE seq = (SELECT seq FROM videos WHERE status = 'queued' ORDER BY seq LIMIT 1) \
                         RETURNING *",
                    )?
                    .query_row(params![now()], |row| {
                        Ok((row.get::<_, i64>("seq")?, read(row)))
                    })
                    .optional()?;
                match found {
                    None => break None,
                    Some((_, Ok(video))) => break Some(video),
                    // It does not keep the others from being made.
                    Some((seq, Err(error))) => change.execute(
                        "UPDATE videos SET status = 'failed', completed_at = ?2, error_code = ?3, \
                         error_message = ?4 WHERE seq = ?1",
                        params![seq, now(), UNREADABLE, error.to_string()],
                    )?,
                };
            };
            change.commit()?;
            Ok(begun.map(|video| {
                let followed = follow(&video.id);
                (video, followed)
            }))
        })
    }

    /// Ends a job that was begun.
    pub(crate) fn end(&self, id: &str, result: &Result<(), MakeError>) -> Result<(), ServeError> {
        let (status, error) = match result {
            Ok(()) => (Status::Completed, None),
            Err(MakeError::Cancelled) => (Status::Cancelled, None),
            Err(error) => (Status::Failed, Some((error.code(), error.to_string()))),
        };
        self.finish(id, status, error.as_ref().map(|(c, m)| (*c, m.as_str())))
    }

    /// Ends a job that was begun, in this state.
    pub(crate) fn finish(
        &self,
        id: &str,
        status: Status,
        error: Option<(&str, &str)>,
    ) -> Result<(), ServeError> {
        self.with(|connection| {
            connection.execute(
                "UPDATE videos SET status = ?2, completed_at = ?3, error_code = ?4, error_message = ?5 \
                 WHERE id = ?1 AND status = 'in_progress'",
                params![id, status.name(), now(), error.map(|e| e.0), error.map(|e| e.1)],
            )?;
            Ok(())
        })
    }

    /// Puts a job that was begun back to its place in the queue, as if it had not been.
    pub(crate) fn put_back(&self, id: &str) -> Result<(), ServeError> {
        self.with(|connection| {
            connection.execute(
                "UPDATE videos SET status = 'queued', started_at = NULL, attempts = attempts - 1 \
                 WHERE id = ?1 AND status = 'in_progress'",
                params![id],
            )?;
            Ok(())
        })
    }

    /// Cancels a job that waits, or forgets one that has ended.
    pub(crate) fn remove(&self, id: &str) -> Result<Removed, ServeError> {
        self.with(|connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let status: Option<String> = change
                .query_row(
                    "SELECT status FROM videos WHERE id = ?1",
                    params![id],
                    |row| row.get(0),
                )
                .optional()?;
            let Some(status) = status else {
                return Ok(Removed::Unknown);
            };
            // Nothing is done with a job whose state is unknown.
            let removed = match Status::parse(&status).unwrap_or(Status::Failed) {
                Status::Queued => {
                    change.execute(
                        "UPDATE videos SET status = 'cancelled', completed_at = ?2 WHERE id = ?1",
                        params![id, now()],
                    )?;
                    Removed::Cancelled
                }
                Status::InProgress => Removed::Running,
                Status::Completed | Status::Failed | Status::Cancelled => {
                    change.execute("DELETE FROM videos WHERE id = ?1", params![id])?;
                    Removed::Gone
                }
            };
            change.commit()?;
            Ok(removed)
        })
    }

    /// What the server before this one was making when it ended: finished if its file is there, else
    /// put back into the queue, unless it has been begun too often. Gives those that were finished.
    pub(crate) fn recover(
        &self,
        files: impl Fn(&str) -> JobFiles,
    ) -> Result<Vec<String>, ServeError> {
        self.with(|connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let begun: Vec<Option<(String, u32)>> = {
                let mut query =
                    change.prepare("SELECT id, attempts FROM videos WHERE status = 'in_progress'")?;
                let rows = query.query_map([], |row| Ok(row.get(0).ok().zip(row.get(1).ok())))?;
                rows.collect::<Result<_, _>>()?
            };
            let mut finished = Vec::new();
            // One that cannot be read is shown as such.
            for (id, attempts) in begun.into_iter().flatten() {
                if files(&id).video().is_file() {
                    change.execute(
                        "UPDATE videos SET status = 'completed', completed_at = ?2 WHERE id = ?1",
                        params![id, now()],
                    )?;
                    finished.push(id);
                } else if attempts >= ATTEMPTS {
                    let message = format!(
                        "the server ended {attempts} times while this video was made; it is not tried again"
                    );
                    change.execute(
                        "UPDATE videos SET status = 'failed', completed_at = ?2, \
                         error_code = 'interrupted', error_message = ?3 WHERE id = ?1",
                        params![id, now(), message],
                    )?;
                } else {
                    change.execute(
                        "UPDATE videos SET status = 'queued', started_at = NULL WHERE id = ?1",
                        params![id],
                    )?;
                }
            }
            change.commit()?;
            Ok(finished)
        })
    }
}

fn count(connection: &Connection, status: Status) -> Result<usize, ServeError> {
    let count: i64 = connection.query_row(
        "SELECT COUNT(*) FROM videos WHERE status = ?1",
        params![status.name()],
        |row| row.get(0),
    )?;
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn nobody_learns_of_a_job_that_was_begun_before_it_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("jobs.sqlite3")).unwrap();
        let settings = serde_json::json!({
            "mode": "text", "prompts": ["a"], "negative_prompt": "", "seed": 1, "distill": false, "refine": false,
            "spatial_only": false, "adapters": [],
        });
        let planned = serde_json::json!({"width": 16, "height": 16, "frames": 1, "fps": 15.0, "warnings": []});
        let new = NewVideo {
            id: "a",
            settings: &serde_json::from_value(settings).unwrap(),
            planned: &serde_json::from_value(planned).unwrap(),
            key: None,
        };
        assert_eq!(store.add(&new, 1).unwrap(), Added::New);
        let followed = AtomicBool::new(false);
        thread::scope(|scope| {
            let begun = store.begin(|_| {
                scope.spawn(|| {
                    assert_eq!(store.remove("a").unwrap(), Removed::Running);
                    assert!(followed.load(Ordering::SeqCst));
                });
                thread::sleep(Duration::from_millis(50));
                followed.store(true, Ordering::SeqCst);
            });
            assert!(begun.unwrap().is_some());
        });
    }
}
