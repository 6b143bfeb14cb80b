//! Server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::sse::{Event as SentEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::watch;

use super::blocking;
use super::error::ApiError;
use super::videos::{find, show};
use crate::app::App;
use crate::hub::{Event, What};

/// Events of one job, or of all.
struct Listener {
    app: Arc<App>,
    /// The only job that counts.
    id: Option<String>,
    events: Receiver<Event>,
    stopping: watch::Receiver<bool>,
    /// What is to be sent before anything else happens.
    waiting: VecDeque<SentEvent>,
    ended: bool,
}

pub(super) async fn of_one(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    // Listening begins before the state is read, so that no change falls between.
    let events = app.hub.listen();
    let mut listener = Listener::new(&app, Some(id.clone()), events);
    let found = blocking(&app, move |app| find(app, &id).map(|video| video.id)).await?;
    listener.send_status(&found).await;
    Ok(listener.answer())
}

pub(super) async fn of_all(State(app): State<Arc<App>>) -> Response {
    let events = app.hub.listen();
    Listener::new(&app, None, events).answer()
}

impl Listener {
    fn new(app: &Arc<App>, id: Option<String>, events: Receiver<Event>) -> Self {
        Self {
            app: app.clone(),
            id,
            events,
            stopping: app.hub.stopping(),
            waiting: VecDeque::new(),
            ended: false,
        }
    }

    fn answer(self) -> Response {
        let events = unfold(self, |mut listener| async {
            let event = listener.next().await?;
            Some((Ok::<_, Infallible>(event), listener))
        });
        Sse::new(events)
            .keep_alive(KeepAlive::default())
            .into_response()
    }

    async fn next(&mut self) -> Option<SentEvent> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            let happened = tokio::select! {
                biased;
                _ = self.stopping.wait_for(|stopping| *stopping) => return None,
                happened = self.events.recv() => happened,
            };
            match happened {
                Ok(event) => self.take(event).await,
                // What was missed shows in the state. Who follows all jobs asks for that after connecting again.
                Err(RecvError::Lagged(_)) => {
                    let id = self.id.clone()?;
                    self.send_status(&id).await;
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    async fn take(&mut self, event: Event) {
        if self.id.as_deref().is_some_and(|id| *id != *event.id) {
            return;
        }
        match event.what {
            What::Status => self.send_status(&event.id).await,
            What::Step(data) => self.send("step", &data),
            What::Preview(data) => self.send("preview", &data),
            What::Removed => self.send_removed(&event.id),
        }
    }

    fn send(&mut self, name: &str, data: &str) {
        self.waiting
            .push_back(SentEvent::default().event(name).data(data));
    }

    fn send_removed(&mut self, id: &str) {
        self.send("removed", &json!({"id": id}).to_string());
        self.ended = self.id.is_some();
    }

    async fn send_status(&mut self, id: &str) {
        let asked = id.to_string();
        let state = blocking(&self.app, move |app| match app.store.get(&asked)? {
            Some(video) => Ok(Some((show(app, &video)?, video.status.is_final()))),
            None => Ok(None),
        });
        match state.await {
            Ok(Some((video, is_final))) => {
                self.send("status", &video.to_string());
                self.ended |= is_final && self.id.is_some();
            }
            // The event that tells so may be among those that were missed.
            Ok(None) if self.id.is_some() => self.send_removed(id),
            Ok(None) | Err(_) => {}
        }
    }
}
