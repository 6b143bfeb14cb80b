//! Which parts of a long clip are taken.

use crate::config::{DataConfig, Take};

/// First frames of the windows of `window` frames that are taken of `length`: one at the start, or as
/// many as fit one after another (at most `data.windows`), spread evenly from the first frame to the
/// last.
pub(crate) fn starts(data: &DataConfig, window: usize, length: usize) -> Vec<usize> {
    let fit = length / window.max(1);
    let count = match data.take {
        Take::Start => 1,
        Take::Random | Take::Every => fit.min(data.windows.unwrap_or(fit)),
    };
    let (gaps, last) = (count.max(2) - 1, length.saturating_sub(window));
    (0..count.max(1))
        .map(|i| (i as f64 * last as f64 / gaps as f64).round() as usize)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::TrainConfig;

    #[test]
    fn windows_reach_from_the_first_frame_to_the_last_and_do_not_overlap() {
        let data = |extra: &str| {
            let text = format!("output = 'run'\n[data]\npath = 'clips'\n{extra}");
            TrainConfig::parse(&text, "run.toml".as_ref()).unwrap().data
        };
        assert_eq!(starts(&data(""), 5, 100), [0]);
        let every = data("take = 'every'");
        assert_eq!(starts(&every, 5, 9), [0]);
        assert_eq!(starts(&every, 5, 10), [0, 5]);
        assert_eq!(starts(&every, 5, 17), [0, 6, 12]);
        for length in 5..200 {
            let starts = starts(&every, 5, length);
            assert!(starts.windows(2).all(|w| w[1] >= w[0] + 5), "{starts:?}");
            assert!(starts.iter().all(|start| start + 5 <= length), "{starts:?}");
        }
        let few = data("take = 'random'\nwindows = 3");
        assert_eq!(starts(&few, 5, 1005), [0, 500, 1000]);
    }
}
