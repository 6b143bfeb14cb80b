//! Where chroma samples lie between luma samples, and both ways between the two grids.
//!
//! Reading interpolates chroma linearly from where its samples lie. Writing takes the samples from
//! which that interpolation comes nearest to the picture (least squares), so that what was read comes
//! out as it was: a video that is read and written again and again does not blur.

/// Where the first chroma sample of an axis lies, in luma samples from the first one, and how many
/// luma samples there are to one of chroma.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Siting {
    pub(crate) step: usize,
    pub(crate) offset: f32,
}

impl Siting {
    /// On the first of every two.
    pub(crate) const COSITED: Self = Self::new(2, 0.0);
    /// Between every two.
    pub(crate) const CENTRED: Self = Self::new(2, 0.5);

    pub(crate) const fn new(step: usize, offset: f32) -> Self {
        Self { step, offset }
    }

    /// How many samples of chroma `luma` samples have.
    pub(crate) fn samples(self, luma: usize) -> usize {
        luma.div_ceil(self.step)
    }

    /// The siting after the axis of `luma` samples was turned round.
    pub(crate) fn mirrored(self, luma: usize) -> Self {
        let last = (self.step * (self.samples(luma) - 1)) as f32 + self.offset;
        Self {
            offset: (luma - 1) as f32 - last,
            ..self
        }
    }

    /// For each luma sample the chroma samples on both sides, and the share of the second.
    pub(crate) fn taps(self, luma: usize) -> Vec<Tap> {
        let last = self.samples(luma) - 1;
        (0..luma)
            .map(|i| {
                let position = ((i as f32 - self.offset) / self.step as f32).max(0.0);
                let first = (position as usize).min(last);
                Tap {
                    first,
                    second: (first + 1).min(last),
                    share: position - first as f32,
                }
            })
            .map(|tap| match tap.first == tap.second {
                true => Tap { share: 0.0, ..tap },
                false => tap,
            })
            .collect()
    }
}

/// Two samples that another is interpolated from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tap {
    pub(crate) first: usize,
    pub(crate) second: usize,
    /// Of the second; the first has the rest.
    pub(crate) share: f32,
}

impl Tap {
    /// The value between two rows or within one.
    pub(crate) fn of(self, first: f32, second: f32) -> f32 {
        first + (second - first) * self.share
    }
}

/// Fits chroma samples to the values of luma samples along one axis.
pub(crate) struct Fit {
    taps: Vec<Tap>,
    /// The normal equations are tridiagonal; this is their factor: pivots, and multipliers of the
    /// row before.
    pivots: Vec<f32>,
    multipliers: Vec<f32>,
    beside: Vec<f32>,
}

impl Fit {
    pub(crate) fn new(siting: Siting, luma: usize) -> Self {
        let taps = siting.taps(luma);
        let count = siting.samples(luma);
        let (mut diagonal, mut beside) = (vec![0.0; count], vec![0.0; count]);
        for tap in &taps {
            let rest = 1.0 - tap.share;
            diagonal[tap.first] += rest * rest;
            diagonal[tap.second] += tap.share * tap.share;
            beside[tap.first] += rest * tap.share;
        }
        let (mut pivots, mut multipliers) = (diagonal, vec![0.0; count]);
        for i in 1..count {
            multipliers[i] = beside[i - 1] / pivots[i - 1];
            pivots[i] -= multipliers[i] * beside[i - 1];
        }
        Self {
            taps,
            pivots,
            multipliers,
            beside,
        }
    }

    /// Chroma samples of lines of `lanes` values: `[luma, lanes]` to `[chroma, lanes]`.
    pub(crate) fn solve(&self, values: &[f32], lanes: usize) -> Vec<f32> {
        let count = self.pivots.len();
        let mut sums = vec![0.0; count * lanes];
        for (tap, line) in self.taps.iter().zip(values.chunks_exact(lanes)) {
            for (index, share) in [(tap.first, 1.0 - tap.share), (tap.second, tap.share)] {
                if share != 0.0 {
                    let sums = &mut sums[index * lanes..][..lanes];
                    for (sum, value) in sums.iter_mut().zip(line) {
                        *sum += share * value;
                    }
                }
            }
        }
        for i in 1..count {
            let (before, line) = sums.split_at_mut(i * lanes);
            let before = &before[(i - 1) * lanes..];
            for (value, before) in line[..lanes].iter_mut().zip(before) {
                *value -= self.multipliers[i] * before;
            }
        }
        for i in (0..count).rev() {
            let (line, after) = sums[i * lanes..].split_at_mut(lanes);
            for (lane, value) in line.iter_mut().enumerate() {
                let after = after.get(lane).map_or(0.0, |after| self.beside[i] * after);
                *value = (*value - after) / self.pivots[i];
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fitting_undoes_interpolation() {
        for siting in [
            Siting::new(1, 0.0),
            Siting::COSITED,
            Siting::CENTRED,
            Siting::new(4, 1.5),
        ] {
            for luma in [1, 2, 7, 16] {
                let samples: Vec<f32> = (0..siting.samples(luma))
                    .map(|i| ((i * 37) % 11) as f32)
                    .collect();
                let line: Vec<f32> = siting
                    .taps(luma)
                    .iter()
                    .map(|tap| tap.of(samples[tap.first], samples[tap.second]))
                    .collect();
                let back = Fit::new(siting, luma).solve(&line, 1);
                let worst = samples.iter().zip(&back).map(|(a, b)| (a - b).abs());
                assert!(
                    worst.fold(0.0, f32::max) < 1e-3,
                    "{siting:?}: {samples:?} {back:?}"
                );
            }
        }
    }

    #[test]
    fn an_axis_that_is_turned_round_keeps_its_samples_in_place() {
        assert_eq!(Siting::COSITED.mirrored(8), Siting::new(2, 1.0));
        assert_eq!(Siting::COSITED.mirrored(7), Siting::COSITED);
        assert_eq!(Siting::CENTRED.mirrored(8), Siting::CENTRED);
    }
}
