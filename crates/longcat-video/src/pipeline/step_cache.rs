//! Passes that need not be computed: EasyCache (Zhou et al., arXiv:2507.02860).
//!
//! From one step to the next the latents change little, and what the transformer adds to them changes
//! less. So where the output of a pass can be foretold well enough, it is not computed: what was added
//! when it last was is added again.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::VideoError;

/// When a pass of the transformer is left out: its output is then the latents and what the last
/// computed pass added to them.
///
/// A pass is one prompt side of a step (with the prompts, or with the negative prompts); each decides
/// for itself, all prompts of a batch together. How much outputs change when latents do is measured
/// where a pass is computed. Elsewhere the change of the latents foretells that of the output, relative
/// to its size, and these changes are summed up over steps since the last computed one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EasyCache {
    /// The foretold change (mean absolute values, relative) from which on a pass is computed: 0 computes
    /// all passes, 0.05 by default.
    pub threshold: f64,
    /// Share of the steps that are computed at the beginning, where the video takes shape; 0.2 by
    /// default, at least one step.
    pub first: f64,
    /// Share of the steps that are computed at the end, where details do; 0.05 by default, at least one
    /// step.
    pub last: f64,
}

impl Default for EasyCache {
    fn default() -> Self {
        Self {
            threshold: 0.05,
            first: 0.2,
            last: 0.05,
        }
    }
}

impl EasyCache {
    /// The default shares with another threshold.
    pub fn with_threshold(threshold: f64) -> Self {
        Self {
            threshold,
            ..Self::default()
        }
    }

    pub(crate) fn check(&self) -> Result<(), VideoError> {
        let Self {
            threshold,
            first,
            last,
        } = *self;
        if !(threshold.is_finite() && threshold >= 0.0) {
            return Err(VideoError::invalid(
                "cache",
                format!("the threshold is {threshold}; 0 or more is needed, such as 0.05"),
            ));
        }
        for share in [first, last] {
            if !(0.0..=1.0).contains(&share) {
                return Err(VideoError::invalid(
                    "cache",
                    format!("a share of the steps is {share}; 0 to 1 is needed"),
                ));
            }
        }
        Ok(())
    }

    /// Steps in which passes may be left out.
    fn free(&self, steps: usize) -> Range<usize> {
        let count = |share: f64| ((share * steps as f64).ceil() as usize).max(1);
        let end = steps.saturating_sub(count(self.last));
        count(self.first).min(end)..end
    }
}

/// Why a text names no rule for leaving out passes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is easy, or easy=THRESHOLD with a threshold of 0 or more, such as easy=0.05")]
pub struct ParseCacheError;

impl FromStr for EasyCache {
    type Err = ParseCacheError;

    /// `easy` or `easy=THRESHOLD`, with the default shares.
    fn from_str(text: &str) -> Result<Self, ParseCacheError> {
        let rule = match text.split_once('=') {
            None if text == "easy" => Self::default(),
            Some(("easy", threshold)) => {
                Self::with_threshold(threshold.parse().map_err(|_| ParseCacheError)?)
            }
            _ => return Err(ParseCacheError),
        };
        rule.check().map_err(|_| ParseCacheError)?;
        Ok(rule)
    }
}

impl fmt::Display for EasyCache {
    /// As it is parsed: without the shares.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "easy={}", self.threshold)
    }
}

/// Passes of a step that the transformer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passes {
    /// All; under guidance that with the negative prompts comes first.
    All,
    /// One of two.
    One(usize),
}

/// What one denoising run remembers.
pub(crate) struct StepCache<B: Backend> {
    threshold: f64,
    free: Range<usize>,
    /// Leading latents that are conditions: they do not change.
    num_cond: usize,
    passes: Vec<Pass<B>>,
    /// Latents of the step before.
    before: Option<Tensor<B, 5>>,
    saved: usize,
}

/// One side of the guidance.
struct Pass<B: Backend> {
    last: Option<Computed<B>>,
    /// Of output and latents, from the computed step before that one to it.
    rate: Option<Rate<B>>,
    /// Changes foretold since then.
    error: f64,
}

/// A computed step.
struct Computed<B: Backend> {
    latents: Tensor<B, 5>,
    /// The transformer's prediction x0 − noise: the negated output.
    raw: Tensor<B, 5>,
}

/// How much a pass changes. Numbers stay on the device until a decision needs them.
struct Rate<B: Backend> {
    /// Mean absolute output; mean absolute change of the output, and of the latents.
    numbers: [Tensor<B, 1>; 3],
}

impl<B: Backend> StepCache<B> {
    /// For a run of so many steps, with guidance or without.
    pub(crate) fn new(rule: &EasyCache, steps: usize, guided: bool, num_cond: usize) -> Self {
        Self {
            threshold: rule.threshold,
            free: rule.free(steps),
            num_cond,
            passes: (0..1 + usize::from(guided)).map(|_| Pass::new()).collect(),
            before: None,
            saved: 0,
        }
    }

    /// Foretells nothing from what was computed up to now: the transformer is another one.
    pub(crate) fn forget(&mut self) {
        self.before = None;
        self.passes.fill_with(Pass::new);
    }

    /// Passes that were left out.
    pub(crate) fn saved(&self) -> usize {
        self.saved
    }

    /// Passes of one step.
    pub(crate) fn passes(&self) -> usize {
        self.passes.len()
    }

    /// The prediction x0 − noise of a step, of each pass `[B, C, T, H, W]` one after the other, from
    /// latents of that shape; passes that are needed are computed by `compute`, in the same shape.
    ///
    /// # Errors
    /// Those of `compute`.
    pub(crate) fn predict(
        &mut self,
        step: usize,
        latents: &Tensor<B, 5>,
        mut compute: impl FnMut(Passes) -> Result<Tensor<B, 5>, VideoError>,
    ) -> Result<Tensor<B, 5>, VideoError> {
        let needed = self.needed(step, latents);
        self.before = Some(latents.clone());
        let batch = latents.dims()[0];
        if needed.iter().all(|needed| *needed) {
            let raw = compute(Passes::All)?;
            for (index, pass) in self.passes.iter_mut().enumerate() {
                let own = raw.clone().narrow(0, index * batch, batch);
                pass.keep(latents, own, self.num_cond);
            }
            return Ok(raw);
        }
        let mut parts = Vec::with_capacity(needed.len());
        for (index, (needed, pass)) in needed.into_iter().zip(&mut self.passes).enumerate() {
            let part = match &pass.last {
                Some(last) if !needed => {
                    self.saved += 1;
                    last.again(latents)
                }
                _ => {
                    let part = compute(Passes::One(index))?;
                    pass.keep(latents, part.clone(), self.num_cond);
                    part
                }
            };
            parts.push(part);
        }
        Ok(Tensor::cat(parts, 0))
    }

    /// Which passes are to be computed.
    fn needed(&mut self, step: usize, latents: &Tensor<B, 5>) -> Vec<bool> {
        let rates = self.passes.iter().map(|pass| pass.rate.as_ref());
        let rates: Option<Vec<&Rate<B>>> = rates.collect();
        let (Some(before), Some(rates)) = (&self.before, rates) else {
            return vec![true; self.passes.len()];
        };
        if !self.free.contains(&step) {
            return vec![true; self.passes.len()];
        }
        // All numbers in one piece: the host waits for the device once.
        let change = difference(latents, before, self.num_cond);
        let numbers = rates.iter().flat_map(|rate| rate.numbers.clone());
        let numbers = Tensor::cat([change].into_iter().chain(numbers).collect(), 0);
        let numbers: Vec<f64> = numbers.into_data().iter::<f64>().collect();
        let (change, rates) = (numbers[0], numbers[1..].chunks_exact(3));
        let threshold = self.threshold;
        let passes = self.passes.iter_mut().zip(rates);
        passes
            .map(|(pass, rate)| {
                let (size, output, input) = (rate[0], rate[1], rate[2]);
                pass.error += output / input * change / size;
                // Also for what is no number: nothing is foretold of it.
                let within = pass.error < threshold;
                !within
            })
            .collect()
    }
}

impl<B: Backend> Pass<B> {
    /// Nothing is foretold yet.
    fn new() -> Self {
        Self {
            last: None,
            rate: None,
            error: 0.0,
        }
    }

    /// Remembers a computed step.
    fn keep(&mut self, latents: &Tensor<B, 5>, raw: Tensor<B, 5>, num_cond: usize) {
        self.error = 0.0;
        self.rate = self.last.as_ref().map(|last| Rate {
            numbers: [
                noise_frames(&raw, num_cond).abs().mean(),
                difference(&raw, &last.raw, num_cond),
                difference(latents, &last.latents, num_cond),
            ],
        });
        self.last = Some(Computed {
            latents: latents.clone(),
            raw,
        });
    }
}

impl<B: Backend> Computed<B> {
    /// The prediction at other latents, if what the output (noise − x0, the negated prediction) is more
    /// than they are stays the same.
    fn again(&self, latents: &Tensor<B, 5>) -> Tensor<B, 5> {
        self.raw.clone() + self.latents.clone() - latents.clone()
    }
}

/// The mean absolute difference of the noise frames.
fn difference<B: Backend>(a: &Tensor<B, 5>, b: &Tensor<B, 5>, num_cond: usize) -> Tensor<B, 1> {
    let difference = noise_frames(a, num_cond) - noise_frames(b, num_cond);
    difference.abs().mean()
}

fn noise_frames<B: Backend>(x: &Tensor<B, 5>, num_cond: usize) -> Tensor<B, 5> {
    let frames = x.dims()[2];
    x.clone().narrow(2, num_cond, frames - num_cond)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::TensorData;
    use burn_flex::{Flex, FlexDevice};

    use super::*;

    /// Latents of two frames, the second one in motion.
    fn latents(step: usize) -> Tensor<Flex, 5> {
        let moving = 1.0 + step as f32 / 16.0;
        let values = TensorData::new(vec![3.0, moving], [1, 1, 2, 1, 1]);
        Tensor::from_data(values, &FlexDevice)
    }

    fn values(x: Tensor<Flex, 5>) -> Vec<f32> {
        x.into_data().into_vec().unwrap()
    }

    /// What a model would answer that adds `constants` to the latents, of the first frame and of the
    /// second one.
    fn answer(latents: &Tensor<Flex, 5>, constants: [f32; 2]) -> Tensor<Flex, 5> {
        let constants = TensorData::new(constants.to_vec(), [1, 1, 2, 1, 1]);
        (latents.clone() + Tensor::from_data(constants, &FlexDevice)).neg()
    }

    /// The steps in which each pass of such a model is computed, of 20; all answers must be exact.
    fn computed(threshold: f64, num_cond: usize, passes: &[[f32; 2]]) -> Vec<Vec<usize>> {
        let rule = EasyCache::with_threshold(threshold);
        let mut cache = StepCache::new(&rule, 20, passes.len() > 1, num_cond);
        let mut steps = vec![Vec::new(); passes.len()];
        for step in 0..20 {
            let latents = latents(step);
            let all = |latents: &Tensor<Flex, 5>| {
                let parts = passes.iter().map(|constants| answer(latents, *constants));
                Tensor::cat(parts.collect(), 0)
            };
            let compute = |asked| {
                Ok(match asked {
                    Passes::All => {
                        steps.iter_mut().for_each(|steps| steps.push(step));
                        all(&latents)
                    }
                    Passes::One(pass) => {
                        steps[pass].push(step);
                        answer(&latents, passes[pass])
                    }
                })
            };
            let made = cache.predict(step, &latents, compute).unwrap();
            assert_eq!(values(made), values(all(&latents)), "step {step}");
        }
        let count: usize = steps.iter().map(Vec::len).sum();
        assert_eq!(cache.saved(), 20 * passes.len() - count);
        steps
    }

    /// The output is the latents themselves: in step s it is 1 + s/16 and changes by 1/16, so that i
    /// steps after the computed step p a change of i/(16 + p) is foretold.
    const ITSELF: [f32; 2] = [0.0, 0.0];
    const OF_ITSELF: [usize; 7] = [0, 1, 2, 3, 8, 15, 19];

    #[test]
    fn a_model_that_adds_a_constant_is_skipped_without_an_error() {
        let condition = [1e6, 0.0];
        assert_eq!(computed(0.26, 1, &[condition]), [OF_ITSELF]);
        // Nearly nothing changes: the first fifth and the last step are computed all the same.
        let large = [1000.0, 1000.0];
        assert_eq!(computed(0.26, 0, &[large]), [[0, 1, 2, 3, 19]]);
    }

    #[test]
    fn passes_of_guidance_decide_apart() {
        let large = [1000.0, 1000.0];
        let steps = computed(0.26, 1, &[ITSELF, large]);
        assert_eq!(steps, [&OF_ITSELF[..], &[0, 1, 2, 3, 19]]);
    }

    #[test]
    fn nothing_is_skipped_below_a_threshold_of_zero() {
        let all: Vec<usize> = (0..20).collect();
        assert_eq!(computed(0.0, 0, &[ITSELF, ITSELF]), [all.clone(), all]);
    }

    #[test]
    fn the_steps_at_both_ends_are_computed() {
        let free = |steps| EasyCache::default().free(steps);
        assert_eq!([50, 16, 5].map(free), [10..47, 4..15, 1..4]);
        assert!([1, 2].map(free).iter().all(Range::is_empty));
        let never = EasyCache {
            first: 0.7,
            last: 0.7,
            ..EasyCache::default()
        };
        assert!(never.free(10).is_empty());
    }

    #[test]
    fn the_threshold_is_what_is_said_or_the_default() {
        let parsed = |text: &str| text.parse::<EasyCache>();
        assert_eq!(parsed("easy"), Ok(EasyCache::default()));
        assert_eq!(parsed("easy=0.1"), Ok(EasyCache::with_threshold(0.1)));
        for text in ["", "tea", "easy=", "easy=-1", "easy=nan", "hard=0.1"] {
            assert_eq!(parsed(text), Err(ParseCacheError), "{text}");
        }
        assert_eq!(EasyCache::default().to_string(), "easy=0.05");
    }

    #[test]
    fn thresholds_and_shares_are_numbers_in_their_range() {
        assert!(EasyCache::default().check().is_ok());
        for threshold in [-0.1, f64::NAN, f64::INFINITY] {
            let error = EasyCache::with_threshold(threshold).check().unwrap_err();
            assert!(error.to_string().contains("cache: the threshold"));
        }
        let rule = EasyCache {
            last: 1.5,
            ..EasyCache::default()
        };
        assert!(rule.check().unwrap_err().to_string().contains("1.5"));
    }
}
