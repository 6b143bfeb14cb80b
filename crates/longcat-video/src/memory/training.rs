//! What training an adapter takes.

use super::fit::DoesNotFit;
use super::sizes::{DeviceSizes, TransformerSizes};

/// Which blocks stay on the device while an adapter is trained, with checkpointing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingPlan {
    /// Blocks whose weights stay on the device.
    pub resident: usize,
    /// All blocks.
    pub depth: usize,
    /// Bytes at most.
    pub peak: u64,
}

/// Tensors of the size of all tokens that the graph of one block and its backward pass hold: what was left
/// of the 13.51 GB that 8 blocks, 14,040 tokens and rank 64 took of an H100.
const GRAPH: u64 = 48;
/// Bytes of a trained number: factor, gradient and two moments in f32, and packed copies of a step.
const TRAINED: u64 = 20;

impl TrainingPlan {
    /// Chooses for passes over so many tokens, the samples of a batch together, and so many trained
    /// numbers.
    ///
    /// # Errors
    /// [`DoesNotFit`] when not even streaming all blocks makes it fit.
    pub fn choose(
        device: DeviceSizes,
        sizes: &TransformerSizes,
        tokens: usize,
        trained: u64,
        budget: Option<u64>,
    ) -> Result<Self, DoesNotFit> {
        let limit = budget.unwrap_or(u64::MAX);
        let depth = sizes.blocks.count();
        // The input of every block is kept, and the inside of one.
        let kept = depth as u64 + GRAPH;
        let tensors = kept * (tokens * sizes.width) as u64 * sizes.element;
        let rest = device.context + sizes.fixed + sizes.unpacked + tensors + TRAINED * trained;
        let taken = |resident| rest + sizes.blocks.bytes(resident);
        match sizes.blocks.most_resident(limit.saturating_sub(rest)) {
            Some(resident) if taken(resident) <= limit => Ok(Self {
                resident,
                depth,
                peak: taken(resident),
            }),
            _ => Err(DoesNotFit::of_stage(("a training step", taken(0)), limit)),
        }
    }
}
