//! Blocks one after another, with the weights that pass through the device.

use longcat_kernels::{KernelBackend, Passage, StreamedWeight};
use longcat_lora::LoraHost;
use longcat_weights::WeightsError;

use crate::{Block, LongCatTransformer};

/// Blocks of a transformer in the order in which they are used, see [`LongCatTransformer::in_turn`].
#[derive(Debug)]
pub struct BlocksInTurn<'a, B: KernelBackend> {
    blocks: &'a [Block<B>],
    order: std::vec::IntoIter<usize>,
    passage: Passage<'a, B>,
}

impl<'a, B: KernelBackend> Iterator for BlocksInTurn<'a, B> {
    type Item = (usize, &'a Block<B>);

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.order.next()?;
        self.passage.advance();
        Some((index, &self.blocks[index]))
    }
}

impl<B: KernelBackend> LongCatTransformer<B> {
    /// Blocks in some order, with their indices. Weights that live in host memory are on the device from
    /// when their block is given until the next one is asked for, and those of the next are on their way.
    ///
    /// # Panics
    /// When it comes to a block that there is none of.
    pub fn in_turn(&self, order: impl IntoIterator<Item = usize>) -> BlocksInTurn<'_, B> {
        let order: Vec<usize> = order.into_iter().collect();
        let weights = order.iter().map(|index| self.blocks[*index].streamed());
        BlocksInTurn {
            blocks: &self.blocks,
            passage: Passage::new(weights, &self.t_embedder.linear_in.weight.device()),
            order: order.into_iter(),
        }
    }
}

impl<B: KernelBackend> LongCatTransformer<B> {
    /// Moves the matrices of blocks to host memory, from where they pass through the device. Adapters
    /// stay on the device.
    ///
    /// # Errors
    /// [`WeightsError::ReadBack`] when one cannot be read from its device; those before it are moved then.
    pub fn move_to_host(&mut self, blocks: &[usize]) -> Result<(), WeightsError> {
        let mut done = Ok(());
        self.visit_lora_mut(&mut |path, layer| {
            let block = path.strip_prefix("blocks.").and_then(|path| {
                let (index, _) = path.split_once('.')?;
                index.parse().ok()
            });
            if done.is_ok() && block.is_some_and(|block| blocks.contains(&block)) {
                match layer.weight.on_host(path) {
                    Ok(weight) => layer.weight = weight,
                    Err(error) => done = Err(error),
                }
            }
        });
        done
    }
}

impl<B: KernelBackend> Block<B> {
    /// The matrices that pass through the device.
    fn streamed(&self) -> Vec<&StreamedWeight<B>> {
        let layers = self.layers().into_iter();
        layers
            .filter_map(|(_, layer)| layer.weight.streamed())
            .collect()
    }
}
