//! How far a job is.

use std::time::Instant;

/// Shares of a pass over a video that are behind when denoising begins and ends.
const DENOISING: (f64, f64) = (0.03, 0.88);
/// Less than this of the whole tells nothing of the time that is left.
const LITTLE: f64 = 0.01;

/// How far a job is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    stage: String,
    /// Parts of the stage that are done.
    pub(crate) done: usize,
    /// Parts of the stage.
    pub(crate) total: usize,
    pass: (usize, usize),
    segment: Option<(usize, usize)>,
    /// Whether the segment or video of this pass is denoised already, at least in part.
    denoised: bool,
    /// Share of the whole that is done; it never falls.
    share: f64,
    /// When the first step was finished, and the share then.
    measured: Option<(Instant, f64)>,
    previews: usize,
}

impl Progress {
    pub(crate) fn pass(&mut self, index: usize, total: usize) {
        if self.pass == (index, total) {
            return;
        }
        self.pass = (index, total);
        self.segment = None;
        self.denoised = false;
    }

    pub(crate) fn segment(&mut self, index: usize, total: usize) {
        self.segment = Some((index, total));
        self.denoised = false;
        self.reach(0.0);
    }

    pub(crate) fn stage(&mut self, name: &str) {
        self.stage = name.to_string();
        (self.done, self.total) = (0, 0);
    }

    pub(crate) fn step(&mut self, done: usize, total: usize) {
        (self.done, self.total) = (done, total);
        self.denoised = true;
        let (begin, end) = DENOISING;
        self.reach(begin + (end - begin) * part(done, total));
        if self.measured.is_none() {
            self.measured = Some((Instant::now(), self.share));
        }
    }

    pub(crate) fn part(&mut self, done: usize, total: usize) {
        (self.done, self.total) = (done, total);
        let (begin, end) = DENOISING;
        self.reach(match self.denoised {
            true => end + (1.0 - end) * part(done, total),
            false => begin * part(done, total),
        });
    }

    /// A share of the segment or video of this pass is done.
    fn reach(&mut self, within: f64) {
        let (segment, segments) = self.segment.unwrap_or((0, 1));
        let of_pass = (segment as f64 + within) / segments.max(1) as f64;
        let (pass, passes) = self.pass;
        let share = (pass as f64 + of_pass) / passes.max(1) as f64;
        self.share = self.share.max(share.min(0.99));
    }

    pub(crate) fn next_preview(&mut self) -> usize {
        self.previews += 1;
        self.previews
    }

    pub(crate) fn stage_name(&self) -> &str {
        &self.stage
    }

    /// From 1.
    pub(crate) fn segment_number(&self) -> Option<usize> {
        self.segment.map(|(index, _)| index + 1)
    }

    pub(crate) fn segments(&self) -> Option<usize> {
        self.segment.map(|(_, total)| total)
    }

    /// Per cent, to a tenth.
    pub(crate) fn percent(&self) -> f64 {
        (1000.0 * self.share).round() / 10.0
    }

    /// Seconds that are left, once there is something to go by: loading a model says nothing.
    pub(crate) fn eta(&self) -> Option<f64> {
        let (since, then) = self.measured?;
        let made = self.share - then;
        let left = since.elapsed().as_secs_f64() * (1.0 - self.share) / made;
        (made > LITTLE).then(|| (10.0 * left).round() / 10.0)
    }
}

fn part(done: usize, total: usize) -> f64 {
    (done as f64 / total.max(1) as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_rises_to_the_end_over_passes_and_segments() {
        let mut progress = Progress::default();
        let mut seen = vec![0.0];
        for pass in 0..2 {
            progress.pass(pass, 2);
            for segment in 0..3 {
                progress.segment(segment, 3);
                progress.stage("text");
                progress.part(1, 1);
                seen.push(progress.percent());
                progress.stage("denoise");
                for step in 1..=4 {
                    progress.step(step, 4);
                    seen.push(progress.percent());
                }
                progress.stage("decode");
                progress.part(3, 3);
                seen.push(progress.percent());
            }
        }
        assert!(
            seen.windows(2)
                .all(|pair| pair[0] < pair[1] || pair[1] == 99.0),
            "{seen:?}"
        );
        // The first of two passes ends in the middle.
        assert_eq!(seen[18], 50.0);
        assert_eq!(seen[36], 99.0);
        assert!(progress.eta().is_some());
    }
}
