//! What can go wrong between ranks.

use serde::{Deserialize, Serialize};

/// What can go wrong between ranks. All ranks get the same error, whichever it began on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum RankError {
    /// The environment names a rank in a way that makes no sense.
    #[error("{variable}: {reason}")]
    Environment {
        /// The variable.
        variable: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The ranks did not find each other.
    #[error("the ranks do not meet at {address}: {reason}")]
    Meeting {
        /// Where rank 0 listens.
        address: String,
        /// What happened.
        reason: String,
    },
    /// A rank ended without a word, or can no longer be reached.
    #[error(
        "rank {rank} ({place}) is gone: {reason}; the other ranks end too, and the same command goes \
         on from the newest checkpoint"
    )]
    Lost {
        /// The rank.
        rank: usize,
        /// Its host and process.
        place: String,
        /// How it was noticed.
        reason: String,
    },
    /// A rank failed.
    #[error("rank {rank} failed: {reason}")]
    Failed {
        /// The rank.
        rank: usize,
        /// Its error.
        reason: String,
    },
    /// A rank was interrupted before training.
    #[error("rank {rank} was interrupted")]
    Interrupted {
        /// The rank.
        rank: usize,
    },
    /// Ranks were not started alike.
    #[error("rank {rank} cannot train with rank 0: {reason}")]
    Differs {
        /// The first rank that differs.
        rank: usize,
        /// In what, and what to do.
        reason: String,
    },
}
