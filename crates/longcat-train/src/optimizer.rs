use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::{AdamW, AdamWConfig, AdamWState, SimpleOptimizer};
use burn::tensor::backend::{AutodiffBackend, Backend};

use crate::parameters::update;
use crate::{Gradients, TrainError};

/// Settings of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// Decay rates of the two moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay: a step multiplies parameters by `1 − learning rate · weight decay`.
    pub weight_decay: f32,
}

impl Default for OptimizerConfig {
    /// PyTorch's defaults.
    fn default() -> Self {
        Self {
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 0.01,
        }
    }
}

/// Burn's AdamW over the trained parameters of a module, with its state by module path, so that it
/// survives a restart (Burn's own adaptor keys it by ids that are new in every process).
///
/// The update is that of `torch.optim.AdamW`.
#[derive(Clone)]
pub struct LoraOptimizer<B: Backend> {
    adamw: AdamW,
    state: BTreeMap<String, AdamWState<B, 1>>,
}

impl<B: Backend> LoraOptimizer<B> {
    /// An optimiser without state.
    pub fn new(config: &OptimizerConfig) -> Self {
        let adamw = AdamWConfig::new()
            .with_beta_1(config.betas[0])
            .with_beta_2(config.betas[1])
            .with_epsilon(config.epsilon)
            .with_weight_decay(config.weight_decay)
            .build();
        Self {
            adamw,
            state: BTreeMap::new(),
        }
    }

    /// Moments by module path.
    pub fn state(&self) -> &BTreeMap<String, AdamWState<B, 1>> {
        &self.state
    }

    /// Replaces the moments.
    pub fn set_state(&mut self, state: BTreeMap<String, AdamWState<B, 1>>) {
        self.state = state;
    }

    /// One step on the parameters that have a gradient; returns the module with new values.
    pub fn step<A, M>(&mut self, module: M, gradients: Gradients<B>, learning_rate: f64) -> M
    where
        A: AutodiffBackend<InnerBackend = B>,
        M: Module<A>,
    {
        let mut gradients = gradients.into_map();
        update::<A, M>(module, |path, values| {
            let gradient = gradients.remove(path)?.values.cast(values.dtype());
            let state = self.state.remove(path);
            let (values, state) = self.adamw.step(learning_rate, values, gradient, state);
            if let Some(state) = state {
                self.state.insert(path.to_string(), state);
            }
            Some(values)
        })
    }

    /// Whether there is a state for every gradient (after the first step).
    ///
    /// # Errors
    /// [`TrainError::Shape`] names the first moment whose length is not that of its parameter.
    pub fn check(&self, gradients: &Gradients<B>) -> Result<(), TrainError> {
        for (path, gradient) in gradients.iter() {
            if let Some(state) = self.state.get(path) {
                let found = state.momentum.moment_1.dims();
                if found != gradient.values.dims() {
                    return Err(TrainError::Shape {
                        input: "optimiser moment",
                        found: found.to_vec(),
                        expected: format!("{path} has shape {:?}", gradient.shape),
                    });
                }
            }
        }
        Ok(())
    }
}
