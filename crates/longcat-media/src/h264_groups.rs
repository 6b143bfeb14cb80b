//! Pictures in groups that begin with a key frame, several of which are encoded at a time.

use std::collections::VecDeque;
use std::mem;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::VideoSpec;
use crate::h264::{H264Encoder, ParameterSets, Picture, WRITTEN, key_frame_period};
use crate::planar::Planar;

/// Frames of a group: enough that they are worth a thread's while, and an even number of key frames of any
/// period.
const GROUP_FRAMES: usize = 6;
/// Bytes of frames that may wait to be encoded.
const MOST_WAITING: usize = 384 << 20;
/// The number of encoders decides which pictures follow each other in one: it is the same on all machines,
/// so that files are.
const MOST_ENCODERS: usize = 7;

/// Encodes frames of one size in groups, each in a thread of its own.
///
/// H.264 has it that key frames that follow each other differ in a number (`idr_pic_id`), which an encoder
/// counts up. Encoders take the groups in turn; as a group has an even number of key frames, all begin with an even
/// number and end with an odd one, or all the other way round.
pub(crate) struct GroupEncoder {
    spec: VideoSpec,
    quality: u8,
    most_encoders: usize,
    encoders: Vec<Worker>,
    /// Frames of the group that is being filled.
    frames: Vec<Vec<u8>>,
    /// Groups so far.
    groups: usize,
    /// The encoders whose groups are under way, the earliest first.
    under_way: VecDeque<usize>,
    parameters: Option<ParameterSets>,
}

/// A thread with an encoder; it ends when its frames do.
struct Worker {
    frames: Sender<Vec<Vec<u8>>>,
    groups: Receiver<Result<Group, String>>,
}

struct Group {
    pictures: Vec<Picture>,
    parameters: Option<ParameterSets>,
}

impl GroupEncoder {
    /// Settings are tried at once, by an encoder that is not used.
    pub(crate) fn new(spec: VideoSpec, quality: u8) -> Result<Self, String> {
        H264Encoder::new(spec.fps, quality)?;
        let group_bytes = (GROUP_FRAMES * spec.size.width * spec.size.height * 3).max(1);
        // One group is being filled.
        let fit = (MOST_WAITING / group_bytes).saturating_sub(1);
        Ok(Self {
            spec,
            quality,
            most_encoders: fit.clamp(1, MOST_ENCODERS),
            encoders: Vec::new(),
            frames: Vec::new(),
            groups: 0,
            under_way: VecDeque::new(),
            parameters: None,
        })
    }

    /// Parameter sets of the stream, known when there are pictures.
    pub(crate) fn parameters(&self) -> Option<&ParameterSets> {
        self.parameters.as_ref()
    }

    /// Takes a frame, `[height, width, 3]` RGB, and gives what pictures are ready, in their order.
    pub(crate) fn push(&mut self, frame: &[u8]) -> Result<Vec<Picture>, String> {
        self.frames.push(frame.to_vec());
        match self.frames.len() < GROUP_FRAMES {
            true => Ok(Vec::new()),
            false => self.begin_group(),
        }
    }

    /// All pictures that are left.
    pub(crate) fn finish(&mut self) -> Result<Vec<Picture>, String> {
        let mut pictures = match self.frames.is_empty() {
            true => Vec::new(),
            false => self.begin_group()?,
        };
        while let Some(encoder) = self.under_way.pop_front() {
            pictures.extend(self.take_group(encoder)?);
        }
        Ok(pictures)
    }

    fn begin_group(&mut self) -> Result<Vec<Picture>, String> {
        let encoder = self.groups % self.most_encoders;
        let mut pictures = Vec::new();
        if encoder == self.encoders.len() {
            self.encoders.push(self.start()?);
        } else if self.under_way.front() == Some(&encoder) {
            self.under_way.pop_front();
            pictures = self.take_group(encoder)?;
        }
        let frames = mem::take(&mut self.frames);
        let sent = self.encoders[encoder].frames.send(frames);
        sent.map_err(|_| ended())?;
        self.groups += 1;
        self.under_way.push_back(encoder);
        Ok(pictures)
    }

    fn take_group(&mut self, encoder: usize) -> Result<Vec<Picture>, String> {
        let group = self.encoders[encoder].groups.recv();
        let Group {
            pictures,
            parameters,
        } = group.map_err(|_| ended())??;
        // The container holds them once, for all of the stream.
        if self.parameters.is_some() && self.parameters != parameters {
            return Err("encoders have different parameters".into());
        }
        self.parameters = parameters;
        Ok(pictures)
    }

    fn start(&self) -> Result<Worker, String> {
        let (frames, to_encode) = channel::<Vec<Vec<u8>>>();
        let (encoded, groups) = channel();
        let size = self.spec.size;
        let mut encoder = H264Encoder::new(self.spec.fps, self.quality)?;
        let period = key_frame_period(self.quality);
        let work = move || {
            for frames in to_encode {
                let pictures = frames.iter().enumerate().map(|(index, frame)| {
                    let planes = Planar::YUV420.planes(frame, size, WRITTEN);
                    encoder.encode(&planes, size, index % period == 0)
                });
                let pictures = pictures.collect::<Result<Vec<_>, _>>();
                let group = pictures.map(|pictures| Group {
                    pictures,
                    parameters: encoder.parameters().cloned(),
                });
                if encoded.send(group).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("h264".into())
            .spawn(work)
            .map_err(|error| format!("starting a thread: {error}"))?;
        Ok(Worker { frames, groups })
    }
}

fn ended() -> String {
    "an encoder ended before its time".into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::VideoSize;

    fn frames(size: VideoSize, count: usize) -> Vec<Vec<u8>> {
        let bytes = size.width * size.height * 3;
        let pixel =
            |frame: usize, i: usize| (frame * 7 + i / 3 * (frame % 5 + 1) + i % 3 * 40) as u8;
        let frame = |frame| (0..bytes).map(|i| pixel(frame, i)).collect();
        (0..count).map(frame).collect()
    }

    #[test]
    fn every_period_begins_with_a_key_frame() {
        let size = VideoSize::new(32, 16);
        for (quality, period) in [(75, 1), (50, 3)] {
            let spec = VideoSpec { size, fps: 15.0 };
            let mut encoder = GroupEncoder::new(spec, quality).unwrap();
            // More groups than encoders, and one that is not full.
            let count = 20 * GROUP_FRAMES + 4;
            let mut pictures = Vec::new();
            for frame in frames(size, count) {
                pictures.extend(encoder.push(&frame).unwrap());
            }
            pictures.extend(encoder.finish().unwrap());
            assert_eq!(pictures.len(), count);
            let keys: Vec<usize> = (0..count).filter(|&i| pictures[i].keyframe).collect();
            let expected: Vec<usize> = (0..count).step_by(period).collect();
            assert_eq!(keys, expected);
        }
    }

    #[test]
    fn encoders_are_as_many_as_memory_allows() {
        let encoders = |width, height| {
            let spec = VideoSpec {
                size: VideoSize::new(width, height),
                fps: 30.0,
            };
            GroupEncoder::new(spec, 75).unwrap().most_encoders
        };
        assert_eq!(encoders(832, 480), 7);
        assert_eq!(encoders(1280, 704), 7);
        assert_eq!(encoders(3840, 2160), 1);
    }
}
