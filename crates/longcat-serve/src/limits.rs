//! What a request may ask for and send at most.

use std::time::Duration;

/// What a request may ask for and send at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Characters of a prompt.
    pub prompt_characters: usize,
    /// Prompts of a long video.
    pub prompts: usize,
    /// Frames, of each segment.
    pub frames: usize,
    /// Pixels of a frame.
    pub pixels: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Adapters of a video.
    pub adapters: usize,
    /// Bytes of an uploaded image.
    pub image_bytes: u64,
    /// Bytes of an uploaded video.
    pub video_bytes: u64,
    /// Seconds of an uploaded video.
    pub video_seconds: u64,
    /// Pixels of an uploaded picture, or of a frame of an uploaded video.
    pub picture_pixels: u64,
    /// Pixels of all frames of an uploaded video together: refining holds them, three bytes each.
    pub video_pixels: u64,
    /// Bytes of an uploaded adapter.
    pub adapter_bytes: u64,
    /// Jobs that wait.
    pub queue: usize,
    /// Connections at once; who comes when they are all in use waits until one ends.
    pub connections: usize,
    /// How long a connection waits for the head of a request, also of its next one.
    pub header_time: Duration,
    /// How long a connection waits while nothing comes of a request that has begun, and while nothing is taken
    /// of an answer.
    pub stall_time: Duration,
    /// How fast the body of a request comes at least, on average and after the first `stall_time`.
    pub bytes_per_second: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            prompt_characters: 10_000,
            prompts: 64,
            frames: 1001,
            pixels: 1920 * 1088,
            steps: 1000,
            adapters: 16,
            image_bytes: 64 << 20,
            video_bytes: 1 << 30,
            video_seconds: 600,
            picture_pixels: 64_000_000,
            video_pixels: 1_500_000_000,
            adapter_bytes: 8 << 30,
            queue: 100,
            connections: 256,
            header_time: Duration::from_secs(30),
            stall_time: Duration::from_secs(30),
            bytes_per_second: 16 << 10,
        }
    }
}

impl Limits {
    /// The largest seed: what a number of JavaScript holds exactly.
    pub(crate) fn seed(&self) -> u64 {
        (1 << 53) - 1
    }
}
