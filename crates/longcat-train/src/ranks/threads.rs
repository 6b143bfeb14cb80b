//! Ranks that are threads of one process: for tests of what several processes do.

use std::sync::Arc;

use super::inbox::Inbox;
use super::{Post, RankError};

/// Leaves messages in the inboxes of the other threads.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) rank: usize,
    /// Of all ranks.
    pub(super) inboxes: Arc<[Arc<Inbox>]>,
}

impl Post for Threads {
    fn send(&self, to: usize, message: &[u8]) -> Result<(), RankError> {
        self.inboxes[to].put(self.rank, message.to_vec());
        Ok(())
    }

    fn fail(&self, failure: &RankError) {
        for inbox in self.inboxes.iter() {
            inbox.fail(failure.clone());
        }
    }

    fn leave(&self) {
        for inbox in self.inboxes.iter() {
            inbox.leave(self.rank);
        }
    }
}
