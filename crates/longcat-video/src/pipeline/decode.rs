//! Frames as they are decoded.

use burn::tensor::Tensor;
use longcat_kernels::{KernelBackend, Stage, guard};

use super::{Observer, Pipeline};
use crate::VideoError;
use crate::frames::PixelFrames;

/// What takes the next frames of every sample of a batch.
pub type TakeFrames<'a> = dyn FnMut(Vec<PixelFrames>) -> Result<(), VideoError> + 'a;

impl<B: KernelBackend> Pipeline<B> {
    /// As [`Self::decode`], but hands the frames on as they come, a few at a time: the next ones of each
    /// sample of the batch, once it is known that the device made them. While `take` has them, no work
    /// is queued; it should give them to another thread. With tiling all frames come at once, since
    /// each tile is decoded from beginning to end.
    ///
    /// # Errors
    /// As [`Self::decode`], after which frames that were taken are of no use; and those of `take`, which
    /// end the decoding.
    pub fn decode_each(
        &mut self,
        latents: Tensor<B, 5>,
        observer: &mut dyn Observer,
        take: &mut TakeFrames<'_>,
    ) -> Result<(), VideoError> {
        let options = self.begin_decoding(&latents, false, observer)?;
        if options.tiling.is_some() {
            return take(self.decode(latents, observer)?);
        }
        self.guarded(Stage::Decoding, |pipeline| {
            let device = [pipeline.device().clone()];
            let latents = latents.cast(pipeline.options().vae_dtype);
            let mut chunks = pipeline.vae()?.decode_chunks(latents, &options)?;
            let total = chunks.len();
            let mut next = || {
                guard::<B, _, VideoError>(&device, Stage::Decoding, || {
                    chunks.next().map(PixelFrames::from_tensor).transpose()
                })
            };
            let mut done = 0;
            while let Some(frames) = next()? {
                done += 1;
                observer.progress(done, total);
                if observer.cancelled() {
                    return Err(VideoError::Cancelled);
                }
                take(frames)?;
            }
            Ok(())
        })
    }
}

/// Some of the frames of a video that comes piece by piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRange {
    /// Frames to leave out.
    skip: usize,
    /// Frames to keep after them.
    keep: usize,
}

impl FrameRange {
    /// All frames.
    pub const ALL: Self = Self {
        skip: 0,
        keep: usize::MAX,
    };

    /// `count` frames from the one of index `first` on.
    pub fn new(first: usize, count: usize) -> Self {
        Self {
            skip: first,
            keep: count,
        }
    }

    /// The same without its first `count` frames.
    #[must_use]
    pub fn without_first(self, count: usize) -> Self {
        Self {
            skip: self.skip.saturating_add(count),
            keep: self.keep.saturating_sub(count),
        }
    }

    /// What the range has of the next frames of the video, if anything.
    pub fn of_next(&mut self, frames: PixelFrames) -> Option<PixelFrames> {
        let skipped = self.skip.min(frames.len());
        let kept = self.keep.min(frames.len() - skipped);
        self.skip -= skipped;
        self.keep -= kept;
        match kept {
            0 => None,
            n if n == frames.len() => Some(frames),
            n => Some(frames.part(skipped, n)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::VideoSize;

    #[test]
    fn a_range_is_cut_from_pieces_of_any_length() {
        let video: Vec<u8> = (0..17).flat_map(|i| [i; 3]).collect();
        let whole = FrameRange::ALL;
        for (range, expected) in [
            (whole, 0..17),
            (FrameRange::new(3, 9), 3..12),
            (FrameRange::new(3, 9).without_first(4), 7..12),
            (FrameRange::new(3, 9).without_first(10), 12..12),
            (whole.without_first(5), 5..17),
            (FrameRange::new(16, 5), 16..17),
        ] {
            for length in [1, 4, 5, 17] {
                let mut left = range;
                let pieces = video.chunks(3 * length).map(|piece| {
                    let size = VideoSize::new(1, 1);
                    PixelFrames::from_bytes(piece.to_vec(), size).unwrap()
                });
                let kept = pieces.filter_map(|piece| left.of_next(piece));
                let kept: Vec<u8> = kept.flat_map(|piece| piece.as_bytes().to_vec()).collect();
                let expected: Vec<u8> = expected.clone().flat_map(|i| [i; 3]).collect();
                assert_eq!(kept, expected, "{range:?} of pieces of {length}");
            }
        }
    }
}
