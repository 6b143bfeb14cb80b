//! Adapters of a pipeline merged into the transformer's weights.

use longcat_kernels::KernelBackend;

use crate::VideoError;
use crate::pipeline::Pipeline;

impl<B: KernelBackend> Pipeline<B> {
    /// Adds the adapters in use to the base weights, which makes them cost nothing per step, and from
    /// now on those that are chosen instead, until [`Self::unmerge_loras`]: at once where the
    /// transformer is loaded, else when it is.
    ///
    /// # Errors
    /// [`VideoError::Lora`]; [`VideoError::Invalid`] for adapters that act in some steps only, and for
    /// weights that are packed;
    /// [`VideoError::Weights`] where others were merged before and the checkpoint cannot be read again.
    pub fn merge_loras(&mut self) -> Result<(), VideoError> {
        if self.is_packed() {
            let reason = "the weights are packed, and a merged one would have to be packed again, with an \
                          error of its own; leave adapters beside the weights, add --requantize, or keep \
                          them as floats with --precision dense";
            return Err(VideoError::invalid("--merge", reason));
        }
        self.merge(false)
    }

    /// As [`Self::merge_loras`]; weights that are packed are packed again with the adapters in them. How far
    /// that is off is told to the observer of the next run
    /// ([`Observer::requantized`](crate::Observer::requantized)).
    ///
    /// Where other adapters are chosen then, the transformer is loaded again.
    ///
    /// # Errors
    /// As [`Self::merge_loras`]; [`VideoError::Lora`] for weights that are packed in a way in which nothing is
    /// packed here.
    pub fn merge_loras_requantized(&mut self) -> Result<(), VideoError> {
        self.merge(true)
    }

    fn merge(&mut self, requantize: bool) -> Result<(), VideoError> {
        self.adapters.check_mergeable(&self.adapters.choice.loras)?;
        if let Some(loras) = &self.adapters.refining {
            self.adapters.check_mergeable(loras)?;
        }
        self.adapters.choice.merged = true;
        self.adapters.choice.requantize = requantize;
        self.refresh_transformers()
    }

    /// Undoes [`Self::merge_loras`] bit for bit, by reading the weights from the checkpoint again.
    ///
    /// # Errors
    /// [`VideoError::Weights`] and [`VideoError::Lora`].
    pub fn unmerge_loras(&mut self) -> Result<(), VideoError> {
        self.adapters.choice.merged = false;
        self.refresh_transformers()
    }

    fn refresh_transformers(&mut self) -> Result<(), VideoError> {
        if !self.loaded_transformers().is_empty() {
            self.transformers()?;
        }
        Ok(())
    }
}
