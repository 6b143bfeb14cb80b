//! What packing merged matrices again changed.

use longcat_weights::PackingError;
use serde::Serialize;

/// Matrices that adapters were merged into and that were packed again, as they were before.
///
/// Errors are root mean squares of differences from the merged numbers, as shares of the root mean squares of
/// these. The packed matrix that adapters were added to was off from its original by about as much before.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Requantized {
    /// How many.
    pub matrices: usize,
    /// The error over all of them.
    pub error: f64,
    /// The one with the largest error, and that.
    pub largest: Option<(String, f64)>,
    #[serde(skip)]
    sums: PackingError,
}

impl Requantized {
    /// Counts a matrix in.
    pub(crate) fn add(&mut self, target: &str, off: PackingError) {
        self.matrices += 1;
        self.sums.add(off);
        self.error = self.sums.share();
        let share = off.share();
        if self.largest.as_ref().is_none_or(|(_, most)| share > *most) {
            self.largest = Some((target.to_string(), share));
        }
    }
}
