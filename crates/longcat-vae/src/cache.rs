//! What temporal convolutions remember between chunks of a clip.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// What the temporal convolutions of one network remember of a clip that comes in chunks.
///
/// Every layer with a memory asks for the next slot; layers run in the same order for every chunk,
/// so a slot always meets the same layer. Frames are `[B, T, H, W, C]`.
#[derive(Debug, Clone)]
pub(crate) struct FrameCache<B: Backend> {
    slots: Vec<Option<Tensor<B, 5>>>,
    cursor: usize,
    first: bool,
    /// Whether more chunks may follow.
    remembers: bool,
}

impl<B: Backend> FrameCache<B> {
    /// For a clip whose number of chunks is not known yet.
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            cursor: 0,
            first: true,
            remembers: true,
        }
    }

    /// For a clip of `count` chunks: of a single one, nothing needs to be remembered.
    pub(crate) fn for_chunks(count: usize) -> Self {
        Self {
            remembers: count > 1,
            ..Self::new()
        }
    }

    /// Runs `network` on the next chunk.
    pub(crate) fn chunk<T>(&mut self, network: impl FnOnce(&mut Self) -> T) -> T {
        debug_assert!(self.first || self.remembers, "a second chunk");
        self.cursor = 0;
        let output = network(self);
        self.first = false;
        output
    }

    /// Whether the current chunk begins the clip. Its first frame is a group of its own in time.
    pub(crate) fn is_first(&self) -> bool {
        self.first
    }

    /// What the next layer remembers of the chunks before this one, if there were any.
    pub(crate) fn recall(&mut self) -> Option<Tensor<B, 5>> {
        if self.cursor == self.slots.len() {
            self.slots.push(None);
        }
        self.cursor += 1;
        self.slots[self.cursor - 1].take()
    }

    /// What the layer that has just recalled will recall in the next chunk.
    pub(crate) fn remember(&mut self, frames: impl FnOnce() -> Tensor<B, 5>) {
        if self.remembers {
            self.slots[self.cursor - 1] = Some(frames());
        }
    }

    /// Puts up to `count` frames before this chunk in front of it, and remembers the last ones.
    /// Returns also how many of them are missing because the clip begins: there lie zeros.
    pub(crate) fn extend(&mut self, x: Tensor<B, 5>, count: usize) -> (Tensor<B, 5>, usize) {
        let (x, missing) = match self.recall() {
            Some(history) => {
                let known = history.dims()[1];
                (Tensor::cat(vec![history, x], 1), count - known)
            }
            None => (x, count),
        };
        self.remember(|| last_frames(&x, count));
        (x, missing)
    }
}

/// A copy of the last `count` frames, or of all if there are fewer. (One slice may be a view that
/// keeps the whole chunk alive.)
fn last_frames<B: Backend>(x: &Tensor<B, 5>, count: usize) -> Tensor<B, 5> {
    let frames = x.dims()[1];
    let frame = |t: usize| x.clone().narrow(1, t, 1);
    Tensor::cat(
        (frames.saturating_sub(count)..frames).map(frame).collect(),
        1,
    )
}
