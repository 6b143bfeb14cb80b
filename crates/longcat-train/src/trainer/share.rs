//! This rank's share of a step, and what all ranks make of their shares.

use std::sync::atomic::Ordering;

use burn::tensor::backend::Backend;
use longcat_kernels::{Stage, guard, wait};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Task;
use super::run::Trainer;
use crate::packed::Packed;
use crate::{Gradients, TrainBackend, TrainError};

/// Loss and gradients of a step, with the parameters that they are of.
pub(super) struct Found<B: TrainBackend> {
    pub loss: f64,
    pub norm: f64,
    pub values: Packed<B::InnerBackend>,
    pub gradients: Packed<B::InnerBackend>,
}

/// What a rank tells the others of its share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Share {
    /// Its part of the mean loss; `None` where it was interrupted.
    loss: Option<f64>,
    /// A hash of names and lengths of its gradients.
    layout: String,
}

impl<B: TrainBackend, T: Task<B>> Trainer<'_, B, T> {
    /// What the next step needs, known to be what the devices computed; `None` when a rank was
    /// interrupted, which this one was if it is `leaving`.
    pub(super) fn gradients(
        &mut self,
        model: &T::Model,
        leaving: bool,
    ) -> Result<Option<Found<B>>, TrainError> {
        let stage = Stage::Training {
            step: self.step + 1,
        };
        let devices = self.devices.clone();
        guard::<B::InnerBackend, _, _>(&devices, stage, || {
            let own = match leaving {
                true => None,
                false => self.accumulate(model)?,
            };
            let own = own.map(|(loss, gradients)| {
                let stepped = self.stepped.take();
                let packed = self.optimizer.pack::<B, _>(stepped, model, gradients);
                (loss, packed)
            });
            let Some(loss) = self.agree(own.as_ref())? else {
                return Ok(None);
            };
            let Some((_, (values, mut gradients))) = own else {
                return Ok(None);
            };
            gradients.change(|part| self.ranks.sum_tensor(part))?;
            let norm = gradients.norm();
            // Of a sum that a rank did not live to give, nothing is used.
            self.ranks.check()?;
            Ok(Some(Found {
                loss,
                norm: norm?,
                values,
                gradients,
            }))
        })
    }

    /// The mean loss over all ranks, once each has its gradients; `None` when one was interrupted.
    #[allow(clippy::type_complexity)]
    fn agree(
        &self,
        own: Option<&(f64, (Packed<B::InnerBackend>, Packed<B::InnerBackend>))>,
    ) -> Result<Option<f64>, TrainError> {
        if self.ranks.size() == 1 {
            return Ok(own.map(|(loss, _)| *loss));
        }
        // The devices wait for each other from here on: those of ranks that are known to have come this
        // far do not wait long.
        wait::<B::InnerBackend>(&self.devices[0]);
        let share = Share {
            loss: own.map(|(loss, _)| *loss),
            layout: own
                .map(|(_, (_, packed))| layout(packed))
                .unwrap_or_default(),
        };
        let shares = self.ranks.gather(self.json(&share)?)?;
        let shares: Result<Vec<Share>, TrainError> =
            shares.iter().map(|share| self.of_json(share)).collect();
        let shares = shares?;
        let losses: Option<Vec<f64>> = shares.iter().map(|share| share.loss).collect();
        let Some(losses) = losses else {
            return Ok(None);
        };
        if let Some(rank) = shares.iter().position(|s| s.layout != shares[0].layout) {
            return Err(TrainError::State {
                path: self.config.output.clone(),
                reason: format!(
                    "rank {rank} has gradients of other parameters in step {} than rank 0",
                    self.step + 1
                ),
            });
        }
        Ok(Some(losses.iter().sum()))
    }

    /// This rank's part of mean loss and gradients of the next step; `None` when interrupted.
    #[allow(clippy::type_complexity)]
    fn accumulate(
        &self,
        model: &T::Model,
    ) -> Result<Option<(f64, Gradients<B::InnerBackend>)>, TrainError> {
        let first = self.batches + (self.ranks.rank() * self.accumulation) as u64;
        let all = self.per_step();
        let mut sum = Gradients::default();
        let mut loss = 0.0;
        for index in first..first + self.accumulation as u64 {
            if self.interrupt.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let (mean, gradients) = self.task.gradients(model, index)?;
            self.finite("the loss", mean, index..index + 1)?;
            loss += mean / all as f64;
            sum.add(gradients);
        }
        if all > 1 {
            sum.scale(1.0 / all as f64);
        }
        Ok(Some((loss, sum)))
    }

    fn json(&self, share: &Share) -> Result<Vec<u8>, TrainError> {
        serde_json::to_vec(share).map_err(|e| self.garbled(&e))
    }

    fn of_json(&self, text: &[u8]) -> Result<Share, TrainError> {
        serde_json::from_slice(text).map_err(|e| self.garbled(&e))
    }

    fn garbled(&self, error: &serde_json::Error) -> TrainError {
        TrainError::State {
            path: self.config.output.clone(),
            reason: format!("what ranks tell each other cannot be read: {error}"),
        }
    }
}

fn layout<B: Backend>(packed: &Packed<B>) -> String {
    let mut hash = Sha256::new();
    for (pack, values) in packed.parts() {
        hash.update(format!("{:?} {:?}", values.dims(), values.dtype()));
        for name in pack.names() {
            hash.update(name);
            hash.update(" ");
        }
    }
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
