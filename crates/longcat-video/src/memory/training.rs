//! What training an adapter takes.

use super::fit::DoesNotFit;
use super::sizes::{DeviceSizes, TransformerSizes};

/// What a training step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingSizes {
    /// Tokens that pass through the transformer at once, of all samples of a batch.
    pub tokens: usize,
    /// Trained numbers.
    pub trained: u64,
    /// Whether a running average of them is kept.
    pub averaged: bool,
    /// Blocks that stay on the device, where they are asked for.
    pub resident: Option<usize>,
}

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
const GRAPH: u64 = 47;
/// Copies in f32 of what is trained, of which pools keep those of every size that there ever was: factors and
/// their gradients one by one, both again in packs, two moments, and the factors of the next step.
const COPIES: u64 = 7;
/// The same of a running average, and the next one.
const AVERAGED: u64 = 2;

impl TrainingPlan {
    /// Chooses for such steps.
    ///
    /// # Errors
    /// [`DoesNotFit`] when not even streaming all blocks makes it fit.
    pub fn choose(
        device: DeviceSizes,
        sizes: &TransformerSizes,
        step: &TrainingSizes,
        budget: Option<u64>,
    ) -> Result<Self, DoesNotFit> {
        let limit = budget.unwrap_or(u64::MAX);
        let depth = sizes.blocks.count();
        // The input of every block is kept, and the inside of one.
        let kept = depth as u64 + GRAPH;
        let tensors = kept * (step.tokens * sizes.width) as u64 * sizes.element;
        let copies = COPIES + if step.averaged { AVERAGED } else { 0 };
        let trained = 4 * copies * step.trained;
        let rest = device.context + sizes.fixed + sizes.unpacked + tensors + trained;
        let taken = |resident| rest + sizes.blocks.bytes(resident);
        let chosen = match step.resident {
            Some(asked) => Some(asked.min(depth)),
            None => sizes.blocks.most_resident(limit.saturating_sub(rest)),
        };
        match chosen.filter(|resident| taken(*resident) <= limit) {
            Some(resident) => Ok(Self {
                resident,
                depth,
                peak: taken(resident),
            }),
            None => {
                let needed = ("a training step", taken(chosen.unwrap_or(0)));
                Err(DoesNotFit::of_stage(needed, limit))
            }
        }
    }
}
