//! What has come for a rank.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::RankError;

type Hook = Box<dyn FnOnce(&RankError) + Send>;

/// What has come for a rank from each of the others, until it is taken.
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
    /// Set with the first failure, so that long work ends.
    interrupt: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    /// By rank.
    messages: Vec<VecDeque<Vec<u8>>>,
    /// Ranks that have ended as they should, after their last message.
    left: Vec<bool>,
    failure: Option<RankError>,
    hooks: Vec<Hook>,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    pub(super) fn new(size: usize, interrupt: Arc<AtomicBool>) -> Self {
        Self {
            state: Mutex::new(State {
                messages: vec![VecDeque::new(); size],
                left: vec![false; size],
                ..State::default()
            }),
            changed: Condvar::new(),
            interrupt,
        }
    }

    /// A message from a rank.
    pub(super) fn put(&self, from: usize, message: Vec<u8>) {
        self.state().messages[from].push_back(message);
        self.changed.notify_all();
    }

    /// A rank has ended as it should.
    pub(super) fn leave(&self, from: usize) {
        self.state().left[from] = true;
        self.changed.notify_all();
    }

    /// Something failed; whoever waits here stops waiting. Only the first failure counts, which
    /// explains the others; `false` for a later one.
    pub(super) fn fail(&self, failure: RankError) -> bool {
        let mut state = self.state();
        if state.failure.is_some() {
            return false;
        }
        state.failure = Some(failure.clone());
        let hooks = std::mem::take(&mut state.hooks);
        drop(state);
        self.interrupt.store(true, Ordering::Relaxed);
        self.changed.notify_all();
        for hook in hooks {
            hook(&failure);
        }
        true
    }

    /// Runs `hook` when something fails, on whatever thread notices; now if it has.
    pub(super) fn when_failed(&self, hook: Hook) {
        let mut state = self.state();
        match state.failure.clone() {
            None => state.hooks.push(hook),
            Some(failure) => {
                drop(state);
                hook(&failure);
            }
        }
    }

    /// The first failure.
    pub(super) fn failure(&self) -> Option<RankError> {
        self.state().failure.clone()
    }

    /// Waits until these ranks have ended as they should, or something failed, but not for long.
    pub(super) fn await_end(&self, ranks: &[usize], patience: Duration) {
        let waits = |state: &mut State| {
            state.failure.is_none() && !ranks.iter().all(|rank| state.left[*rank])
        };
        let waited = self
            .changed
            .wait_timeout_while(self.state(), patience, waits);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits for the next message of a rank.
    pub(super) fn take(&self, from: usize) -> Result<Vec<u8>, RankError> {
        let mut state = self.state();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if let Some(message) = state.messages[from].pop_front() {
                return Ok(message);
            }
            if state.left[from] {
                return Err(RankError::Lost {
                    rank: from,
                    place: "ended".into(),
                    reason: "it was through before the others".into(),
                });
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
