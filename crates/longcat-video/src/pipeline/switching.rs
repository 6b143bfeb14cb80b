//! Adapters that act in some of the steps.

use longcat_dit::LongCatTransformer;
use longcat_kernels::KernelBackend;
use longcat_lora::LoraRegistry;

use super::predict::Model;
use crate::VideoError;

/// The transformer with the adapters of a step, while a run goes through its steps.
pub(crate) struct Switching<'a, B: KernelBackend> {
    model: &'a Model<'a, B>,
    total: usize,
    /// Whether each timed adapter acts now.
    acting: Option<Vec<bool>>,
    /// With these adapters; empty where none is timed. They share their weights with those of the model.
    replicas: Vec<LongCatTransformer<B>>,
}

impl<'a, B: KernelBackend> Switching<'a, B> {
    /// For a run of so many steps.
    ///
    /// # Errors
    /// [`VideoError::Invalid`] for an adapter that would act in none of them.
    pub(crate) fn new(model: &'a Model<'a, B>, total: usize) -> Result<Self, VideoError> {
        model
            .timed
            .iter()
            .try_for_each(|timed| timed.check(total))?;
        Ok(Self {
            model,
            total,
            acting: None,
            replicas: Vec::new(),
        })
    }

    /// Brings the adapters to a step, from 0; says whether others act than before.
    pub(crate) fn turn_to(&mut self, step: usize) -> Result<bool, VideoError> {
        let timed = self.model.timed;
        let acting = timed.iter().map(|t| t.steps.contains(step, self.total));
        let acting: Vec<bool> = acting.collect();
        if self.acting.as_ref() == Some(&acting) {
            return Ok(false);
        }
        if !timed.is_empty() {
            let mut replicas = self.model.replicas.to_vec();
            for replica in &mut replicas {
                for (timed, acts) in timed.iter().zip(&acting) {
                    replica.set_adapter_enabled(&timed.name, *acts)?;
                }
            }
            self.replicas = replicas;
        }
        self.acting = Some(acting);
        Ok(true)
    }

    /// The transformer as it is now.
    pub(crate) fn model(&self) -> Model<'_, B> {
        Model {
            replicas: match self.replicas.is_empty() {
                true => self.model.replicas,
                false => &self.replicas,
            },
            devices: self.model.devices,
            timed: &[],
        }
    }
}
