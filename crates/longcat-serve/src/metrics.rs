//! Counters for Prometheus.

use std::any::Any;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ServeError;
use crate::store::{Status, Store};
use crate::studio::MakeError;

/// What is counted since the server started.
#[derive(Default)]
pub(crate) struct Metrics {
    completed: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    /// Milliseconds in which videos were made.
    making: AtomicU64,
    refused: AtomicU64,
    /// Requests by the first digit of their status.
    requests: [AtomicU64; 6],
}

impl Metrics {
    pub(crate) fn ended(
        &self,
        made: &Result<Result<(), MakeError>, Box<dyn Any + Send>>,
        took: Duration,
    ) {
        let counter = match made {
            Ok(Ok(())) => {
                let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                self.making.fetch_add(took, Ordering::Relaxed);
                &self.completed
            }
            Ok(Err(MakeError::Cancelled)) => &self.cancelled,
            _ => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self, status: u16) {
        let class = usize::from(status / 100).min(self.requests.len() - 1);
        self.requests[class].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Seconds that a video takes, once one was made.
    pub(crate) fn seconds_a_video(&self) -> Option<f64> {
        let completed = self.completed.load(Ordering::Relaxed);
        let making = self.making.load(Ordering::Relaxed) as f64 / 1000.0;
        (completed > 0).then(|| making / completed as f64)
    }

    /// In Prometheus' text format.
    pub(crate) fn text(
        &self,
        store: &Store,
        queue: usize,
        workers: usize,
    ) -> Result<String, ServeError> {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, rows: &[(String, f64)]| {
            let _ = writeln!(
                text,
                "# HELP longcat_{name} {help}\n# TYPE longcat_{name} {kind}"
            );
            for (labels, value) in rows {
                let _ = writeln!(text, "longcat_{name}{labels} {value}");
            }
        };
        let plain = |value: f64| vec![(String::new(), value)];
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let mut kept = Vec::new();
        for status in Status::ALL {
            let labels = format!("{{status=\"{}\"}}", status.name());
            kept.push((labels, store.count(status)? as f64));
        }
        metric("videos", "gauge", "Jobs that are kept, by status.", &kept);
        let ended = [
            ("completed", &self.completed),
            ("failed", &self.failed),
            ("cancelled", &self.cancelled),
        ];
        let ended: Vec<_> = ended
            .iter()
            .map(|(name, counter)| (format!("{{result=\"{name}\"}}"), load(counter)))
            .collect();
        metric(
            "jobs_total",
            "counter",
            "Jobs that ended since the start.",
            &ended,
        );
        let making = plain(load(&self.making) / 1000.0);
        metric(
            "job_seconds_total",
            "counter",
            "Time in which completed videos were made.",
            &making,
        );
        metric(
            "refused_total",
            "counter",
            "Jobs refused because the queue was full.",
            &plain(load(&self.refused)),
        );
        metric(
            "queue_limit",
            "gauge",
            "Jobs that may wait.",
            &plain(queue as f64),
        );
        metric(
            "workers",
            "gauge",
            "Workers, one for each device.",
            &plain(workers as f64),
        );
        let classes: Vec<_> = (2..6)
            .map(|class| {
                (
                    format!("{{code=\"{class}xx\"}}"),
                    load(&self.requests[class]),
                )
            })
            .collect();
        metric(
            "requests_total",
            "counter",
            "Requests that were answered.",
            &classes,
        );
        if let Some(bytes) = resident() {
            metric(
                "resident_memory_bytes",
                "gauge",
                "Memory of the process.",
                &plain(bytes as f64),
            );
        }
        Ok(text)
    }
}

/// Bytes of memory that the process holds, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(1024 * kibibytes)
}
