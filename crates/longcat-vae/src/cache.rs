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
}

impl<B: Backend> FrameCache<B> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            cursor: 0,
            first: true,
        }
    }

    /// Runs `network` on the next chunk.
    pub(crate) fn chunk<T>(&mut self, network: impl FnOnce(&mut Self) -> T) -> T {
        self.cursor = 0;
        let output = network(self);
        self.first = false;
        output
    }

    /// Whether the current chunk begins the clip. Its first frame is a group of its own in time.
    pub(crate) fn is_first(&self) -> bool {
        self.first
    }

    /// The next layer's slot, empty until it was filled.
    pub(crate) fn slot(&mut self) -> &mut Option<Tensor<B, 5>> {
        if self.cursor == self.slots.len() {
            self.slots.push(None);
        }
        self.cursor += 1;
        &mut self.slots[self.cursor - 1]
    }

    /// Puts the `count` frames before this chunk in front of it (zeros before the clip begins),
    /// and remembers the last ones.
    pub(crate) fn extend(&mut self, x: Tensor<B, 5>, count: usize) -> Tensor<B, 5> {
        let slot = self.slot();
        let history = slot.take().unwrap_or_else(|| {
            let [b, _, h, w, c] = x.dims();
            Tensor::zeros([b, count, h, w, c], (&x.device(), x.dtype()))
        });
        let x = Tensor::cat(vec![history, x], 1);
        *slot = Some(last_frames(&x, count));
        x
    }
}

/// A copy of the last `count` frames. (One slice may be a view that keeps the whole chunk alive.)
fn last_frames<B: Backend>(x: &Tensor<B, 5>, count: usize) -> Tensor<B, 5> {
    let frames = x.dims()[1];
    let frame = |t: usize| x.clone().narrow(1, t, 1);
    Tensor::cat((frames - count..frames).map(frame).collect(), 1)
}
