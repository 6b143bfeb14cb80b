//! Burn's AdamW over trained parameters.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, SimpleOptimizer};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use crate::Gradients;
use crate::packed::{Pack, Packed};
use crate::parameters::{flat, trained, update};

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
/// The update is that of `torch.optim.AdamW`. It goes over packs of parameters.
#[derive(Clone)]
pub struct LoraOptimizer<B: Backend> {
    adamw: AdamW,
    /// What the rate of the factors `up` is multiplied by.
    up_rate: f64,
    /// The parameters of the last step; without a state before their first.
    packs: Vec<(Pack, Option<AdamWState<B, 1>>)>,
    /// States of parameters that had no gradient in the last step.
    others: BTreeMap<String, AdamWState<B, 1>>,
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
            up_rate: 1.0,
            packs: Vec::new(),
            others: BTreeMap::new(),
        }
    }

    /// The same, with this factor on the learning rate of the factors `up` of adapters (LoRA+, Hayou et
    /// al. 2024). Decoupled weight decay goes by the rate, so it is multiplied too.
    #[must_use]
    pub fn with_up_rate(mut self, factor: f64) -> Self {
        self.up_rate = factor;
        self
    }

    /// Whether a parameter has a rate of its own.
    fn is_up(&self, name: &str) -> bool {
        self.up_rate != 1.0 && name.contains(".adapters.") && name.ends_with(".up")
    }

    /// Moments by module path.
    pub fn state(&self) -> BTreeMap<String, AdamWState<B, 1>> {
        let mut states = self.others.clone();
        for (pack, state) in &self.packs {
            let Some(AdamWState { momentum }) = state else {
                continue;
            };
            let first = pack.unpack(momentum.moment_1.clone());
            let second = pack.unpack(momentum.moment_2.clone());
            for ((name, moment_1), (_, moment_2)) in first.zip(second) {
                let moments = AdaptiveMomentumState::new(momentum.time, moment_1, moment_2);
                states.insert(name.to_string(), AdamWState::new(moments));
            }
        }
        states
    }

    /// Replaces the moments.
    pub fn set_state(&mut self, state: BTreeMap<String, AdamWState<B, 1>>) {
        self.packs = Vec::new();
        self.others = state;
    }

    /// One step on the parameters that have a gradient; returns the module with new values.
    pub fn step<A, M>(&mut self, module: M, gradients: Gradients<B>, learning_rate: f64) -> M
    where
        A: AutodiffBackend<InnerBackend = B>,
        M: Module<A>,
    {
        let (values, gradients) = self.pack(None, &module, gradients);
        let mut new = self.step_packed(values, gradients, learning_rate).values();
        update::<A, M>(module, |path, _| new.remove(path))
    }

    /// The parameters that have a gradient, and their gradients in their dtype, in the same packs.
    /// `last` is what the last step gave, if the module still has that: it need not be packed again.
    pub(crate) fn pack<A, M>(
        &mut self,
        last: Option<Packed<B>>,
        module: &M,
        gradients: Gradients<B>,
    ) -> (Packed<B>, Packed<B>)
    where
        A: AutodiffBackend<InnerBackend = B>,
        M: Module<A>,
    {
        let mut gradients = flat(gradients.into_map());
        let fits = |last: &Packed<B>| are_keys(last.packs(), &gradients);
        let values = last.filter(fits).unwrap_or_else(|| {
            let mut values = flat(trained::<A, M>(module));
            values.retain(|path, _| gradients.contains_key(path));
            self.arrange(&values);
            Packed::new(self.packs.iter().map(|(pack, _)| pack.clone()), values)
        });
        for (pack, packed) in values.parts() {
            for name in pack.names() {
                if let Some(gradient) = gradients.get_mut(name) {
                    *gradient = gradient.clone().cast(packed.dtype());
                }
            }
        }
        let packs: Vec<Pack> = values.packs().cloned().collect();
        (values, Packed::new(packs, gradients))
    }

    /// One step on what [`Self::pack`] gave; returns the new values.
    pub(crate) fn step_packed(
        &mut self,
        values: Packed<B>,
        gradients: Packed<B>,
        learning_rate: f64,
    ) -> Packed<B> {
        let up = self.packs.iter().map(|(pack, _)| {
            let mut names = pack.names();
            names.any(|name| self.is_up(name))
        });
        let mut up = up.collect::<Vec<_>>().into_iter();
        let mut states = self.packs.iter_mut();
        values.zip(gradients, |old, gradient| {
            let (Some((_, state)), Some(up)) = (states.next(), up.next()) else {
                unreachable!("a state for each pack");
            };
            let learning_rate = match up {
                true => learning_rate * self.up_rate,
                false => learning_rate,
            };
            let (stepped, moments) = self.adamw.step(learning_rate, old, gradient, state.take());
            *state = moments;
            stepped
        })
    }

    /// Makes the packs those of `values`.
    fn arrange(&mut self, values: &BTreeMap<String, Tensor<B, 1>>) {
        if are_keys(self.packs.iter().map(|(pack, _)| pack), values) {
            return;
        }
        let mut states = self.state();
        // Parameters that begin later are younger, and share no pack with others; nor do those of
        // another rate.
        let items = values.iter().map(|(name, values)| {
            let time = states.get(name).map(|state| state.momentum.time);
            let key = (values.dtype(), time, self.is_up(name));
            (name.clone(), values.dims()[0], key)
        });
        let mut items: Vec<_> = items.collect();
        items.sort_by_key(|(_, _, (_, _, up))| *up);
        let packs: Vec<Pack> = Pack::all(items);
        let packs = packs.into_iter().map(|pack| {
            let states: Option<Vec<_>> = pack.names().map(|name| states.remove(name)).collect();
            let state = states.map(|states| {
                let moments = |which: fn(&AdamWState<B, 1>) -> &Tensor<B, 1>| {
                    let mut parts = states.iter().map(which);
                    pack.pack(|_| match parts.next() {
                        Some(moment) => moment.clone(),
                        None => unreachable!("a state for each name"),
                    })
                };
                AdamWState::new(AdaptiveMomentumState::new(
                    states[0].momentum.time,
                    moments(|state| &state.momentum.moment_1),
                    moments(|state| &state.momentum.moment_2),
                ))
            });
            (pack, state)
        });
        self.packs = packs.collect();
        self.others = states;
    }
}

/// Whether packs hold what the keys of a map name.
fn are_keys<'a, V>(packs: impl Iterator<Item = &'a Pack>, map: &BTreeMap<String, V>) -> bool {
    let mut count = 0;
    for name in packs.flat_map(Pack::names) {
        if !map.contains_key(name) {
            return false;
        }
        count += 1;
    }
    count == map.len()
}
