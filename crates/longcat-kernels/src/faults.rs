//! Whether what a device computed may be used, on every backend.
//!
//! Devices fail where nobody looks. cubecl gives work to a thread of its own, catches its panics (out
//! of memory, a buffer over the limit) and goes on with whatever is in memory; other errors wait until
//! someone asks, and are forgotten once they were told. So [`guard`] stands around everything whose
//! result leaves a device. It looks at what was recorded of the device, waits for it, asks it for an
//! answer that is known, and names the stage.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::LazyLock;

use burn::tensor::{DType, Tensor, TensorData};

use crate::KernelDevice;

/// What a device was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// A product and a copy are timed.
    Measuring,
    /// Weights of the text encoder go to the device.
    LoadingTextEncoder,
    /// Prompts become embeddings.
    EncodingPrompt,
    /// Weights of the transformer go to the device.
    LoadingTransformer,
    /// Adapters are added to the transformer's weights.
    MergingAdapters,
    /// Frames become latents.
    EncodingFrames,
    /// Keys and values of the condition frames are computed.
    CachingCondition,
    /// A denoising step.
    Denoising {
        /// The step, from 1.
        step: usize,
        /// Steps of the schedule.
        total: usize,
    },
    /// Latents become frames.
    Decoding,
    /// Tensors come to the host to be written.
    Saving,
    /// Loss and gradients of a training step.
    Training {
        /// The step, from 1.
        step: usize,
    },
    /// Losses of clips that are held out.
    Validating,
    /// Sample videos of a model in training.
    Sampling,
}

impl Stage {
    /// What makes this stage take less.
    fn help(self) -> &'static str {
        match self {
            Self::LoadingTextEncoder | Self::EncodingPrompt => {
                "--memory with less than is free lets layers pass through the device, and a narrower \
                 --dtype (bf16, f16) takes half as much"
            }
            Self::LoadingTransformer | Self::MergingAdapters => {
                "--memory with less than is free lets blocks pass through the device, and a narrower \
                 --precision or --dtype takes less"
            }
            Self::EncodingFrames | Self::Decoding => {
                "--memory with less than is free takes other models off the device first and works in \
                 tiles; a smaller --size or fewer --frames take less, too"
            }
            Self::CachingCondition => {
                "--memory with less than is free or --offload-kv-cache keeps the cache on the host; a \
                 smaller --size takes less"
            }
            Self::Denoising { .. } => {
                "--memory with less than is free lets blocks pass through the device; a smaller --size, \
                 fewer --frames or a narrower --precision take less, too"
            }
            Self::Training { .. } | Self::Validating => {
                "memory in the config, train.checkpointing, a smaller train.batch, fewer data.frames, a \
                 smaller data.sizes or a smaller lora.rank take less"
            }
            Self::Sampling => "a smaller samples.size or fewer samples.frames take less",
            Self::Measuring | Self::Saving => "other programs on the device may hold its memory",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Measuring => write!(f, "measuring its speed"),
            Self::LoadingTextEncoder => write!(f, "loading the text encoder"),
            Self::EncodingPrompt => write!(f, "encoding the prompt"),
            Self::LoadingTransformer => write!(f, "loading the transformer"),
            Self::MergingAdapters => write!(f, "merging adapters"),
            Self::EncodingFrames => write!(f, "encoding frames"),
            Self::CachingCondition => write!(f, "computing the cache of the condition frames"),
            Self::Denoising { step, total } => write!(f, "denoising, step {step} of {total}"),
            Self::Decoding => write!(f, "decoding"),
            Self::Saving => write!(f, "reading results back"),
            Self::Training { step } => write!(f, "training step {step}"),
            Self::Validating => write!(f, "validating"),
            Self::Sampling => write!(f, "making samples"),
        }
    }
}

/// Why a device failed, as far as it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFault {
    message: String,
    requested: Option<u64>,
    limit: Option<u64>,
}

impl DeviceFault {
    /// A fault in the words of a panic or an error; the bytes of a buffer that could not be had are
    /// read from them.
    pub fn new(words: &str) -> Self {
        let requested = words.split_once("BufferTooBig { size: ").or_else(|| {
            // The same as the error's own text.
            words.split_once("can't allocate buffer of size: ")
        });
        let requested = requested.and_then(|(_, rest)| {
            let end = rest.find(|c: char| !c.is_ascii_digit());
            rest[..end.unwrap_or(rest.len())].parse().ok()
        });
        Self {
            message: shortened(words),
            requested,
            limit: None,
        }
    }

    /// The same, of a device whose tensors have at most `limit` bytes.
    pub fn within(mut self, limit: u64) -> Self {
        self.limit = self.requested.filter(|bytes| *bytes > limit).map(|_| limit);
        self
    }

    /// Bytes of the buffer that the device could not give, where it says so.
    pub fn requested(&self) -> Option<u64> {
        self.requested
    }
}

/// The first line, without the wrapping of `unwrap` and without an absent backtrace.
fn shortened(words: &str) -> String {
    const MOST: usize = 300;
    let words = words.trim();
    let words = words
        .strip_prefix("called `Result::unwrap()` on an `Err` value: ")
        .unwrap_or(words);
    let words = words.split(", backtrace").next().unwrap_or(words);
    let line: Vec<&str> = words.lines().map(str::trim).collect();
    line.join(" ").chars().take(MOST).collect()
}

impl fmt::Display for DeviceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.requested, self.limit) {
            (Some(bytes), Some(limit)) => write!(
                f,
                "a buffer of {} was asked for, and the device has none above {}",
                Bytes(bytes),
                Bytes(limit)
            ),
            (Some(bytes), None) => {
                write!(
                    f,
                    "out of memory: a buffer of {} was asked for",
                    Bytes(bytes)
                )
            }
            (None, _) => f.write_str(&self.message),
        }
    }
}

/// A number of bytes in words.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0 as f64;
        match self.0 {
            0..1_048_576 => write!(f, "{} bytes", self.0),
            1_048_576..1_073_741_824 => write!(f, "{:.1} MiB", value / 1_048_576.0),
            _ => write!(f, "{:.2} GiB", value / 1_073_741_824.0),
        }
    }
}

/// A device failed, and what it gave since then is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the device failed while {stage}: {fault}; {}", stage.help())]
pub struct DeviceError {
    /// What it was doing, or what was waited for when the failure was found.
    pub stage: Stage,
    /// Why, as far as it says.
    pub fault: DeviceFault,
}

/// The variable of [`fail_if_asked`]: a stage as messages call it.
const FAIL_AT: &str = "LONGCAT_FAIL_AT";

thread_local! {
    /// Faults of backends that work on the thread of their caller.
    static OWN: RefCell<Option<DeviceFault>> = const { RefCell::new(None) };
    /// How many guards this thread is in.
    static GUARDS: Cell<usize> = const { Cell::new(0) };
    /// Whether a guard that this thread is still in has told of a fault.
    static TOLD: Cell<bool> = const { Cell::new(false) };
}

/// See [`KernelDevice::fault`].
pub(crate) fn own_fault() -> Option<DeviceFault> {
    OWN.with_borrow(Clone::clone)
}

/// See [`KernelDevice::keep_fault`].
pub(crate) fn keep_own_fault(fault: DeviceFault) {
    OWN.with_borrow_mut(|own| {
        own.get_or_insert(fault);
    });
}

/// Whether a panic of this thread is looked at by a guard.
#[cfg(feature = "cubecl")]
pub(crate) fn is_guarded() -> bool {
    GUARDS.get() > 0
}

/// Runs work that ends in a result of `devices`, and gives the result only if they are known to have
/// done it.
///
/// Call it where the result is read back, or where other work begins that others name. A panic of the
/// work is an error where a device is at fault, and goes on where none is.
///
/// # Errors
/// [`DeviceError`] when a device has failed, now or before, whatever came of the work; else those of
/// the work. Of guards within guards, the innermost that finds the fault names the stage.
pub fn guard<B: KernelDevice, T, E: From<DeviceError>>(
    devices: &[B::Device],
    stage: Stage,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    judged(stage, work, |_| {
        fail_if_asked::<B>(devices, stage);
        devices.iter().try_for_each(|device| settle::<B>(device))
    })
}

/// As [`guard`], but waits for no device unless the work fails: between two guards it ends long work
/// early.
///
/// # Errors
/// As [`guard`], for faults that are known.
pub fn attempt<B: KernelDevice, T, E: From<DeviceError>>(
    devices: &[B::Device],
    stage: Stage,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    judged(stage, work, |failed| match failed {
        true => devices.iter().try_for_each(|device| settle::<B>(device)),
        false => devices
            .iter()
            .try_for_each(|device| B::fault(device).map_or(Ok(()), Err)),
    })
}

/// Lets the devices of a guard fail in debug builds where the environment names its stage, for tests of
/// what a program does then.
fn fail_if_asked<B: KernelDevice>(devices: &[B::Device], stage: Stage) {
    static ASKED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(FAIL_AT).ok());
    if cfg!(debug_assertions) && ASKED.as_ref().is_some_and(|at| *at == stage.to_string()) {
        for device in devices {
            B::keep_fault(device, DeviceFault::new(FAIL_AT));
        }
    }
}

/// Runs work, then asks for the state of the devices; `settled` is told whether the work failed.
fn judged<T, E: From<DeviceError>>(
    stage: Stage,
    work: impl FnOnce() -> Result<T, E>,
    settled: impl FnOnce(bool) -> Result<(), DeviceFault>,
) -> Result<T, E> {
    let outermost = GUARDS.get() == 0;
    let done = caught(work);
    let told = TOLD.get();
    let failed = !matches!(done, Ok(Ok(_)));
    let result = match (done, settled(failed)) {
        (Ok(result), Ok(())) => result,
        (Err(panic), Ok(())) => resume_unwind(panic),
        // A guard in the work has told of it, with the stage that it knows.
        (Ok(Err(error)), Err(_)) if told => Err(error),
        (_, Err(fault)) => {
            TOLD.set(true);
            Err(DeviceError { stage, fault }.into())
        }
    };
    if outermost {
        TOLD.set(false);
    }
    result
}

/// Waits for a device. What it reports is kept, as cubecl tells of an error only once.
pub fn wait<B: KernelDevice>(device: &B::Device) {
    if let Err(error) = B::sync(device) {
        B::keep_fault(device, DeviceFault::new(&error.to_string()));
    }
}

/// Waits for a device, and for an answer that is known.
fn settle<B: KernelDevice>(device: &B::Device) -> Result<(), DeviceFault> {
    if let Some(fault) = B::fault(device) {
        return Err(fault);
    }
    let fault = match caught(|| answer::<B>(device)) {
        Ok(Ok(())) => None,
        Ok(Err(words)) => Some(words),
        Err(panic) => Some(words_of(&*panic).to_string()),
    };
    if let Some(words) = fault {
        // What came first explains the rest.
        B::keep_fault(device, DeviceFault::new(&words));
    }
    B::fault(device).map_or(Ok(()), Err)
}

/// Lets the device compute a few numbers after all it was given so far.
fn answer<B: KernelDevice>(device: &B::Device) -> Result<(), String> {
    const COUNT: u16 = 64;
    B::sync(device).map_err(|error| error.to_string())?;
    let numbers: Vec<f32> = (0..COUNT).map(f32::from).collect();
    let data = TensorData::new(numbers.clone(), [usize::from(COUNT)]);
    let tensor = Tensor::<B, 1>::from_data(data, (device, DType::F32));
    let found = (tensor * 3.0 + 1.0)
        .try_into_data()
        .map_err(|error| error.to_string())?;
    let expected = numbers.iter().map(|x| x * 3.0 + 1.0);
    match found.iter::<f32>().eq(expected) {
        true => Ok(()),
        false => Err("it no longer computes: a sum of known numbers came back wrong".into()),
    }
}

/// Runs work in which panics are results.
fn caught<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    struct Inside;
    impl Drop for Inside {
        fn drop(&mut self) {
            GUARDS.set(GUARDS.get() - 1);
        }
    }
    GUARDS.set(GUARDS.get() + 1);
    let _inside = Inside;
    // What a panic leaves half done is on the device, and not used: a fault of the device stays, and
    // another panic goes on.
    catch_unwind(AssertUnwindSafe(work))
}

/// The message of a panic.
pub(crate) fn words_of(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_cubecl_are_understood() {
        let panic = "called `Result::unwrap()` on an `Err` value: BufferTooBig { size: 4200595456, \
                     backtrace: BackTrace { backtrace: None } }";
        let fault = DeviceFault::new(panic);
        assert_eq!(fault.requested(), Some(4_200_595_456));
        assert_eq!(
            fault.to_string(),
            "out of memory: a buffer of 3.91 GiB was asked for"
        );
        let text = fault.clone().within(2 << 30).to_string();
        assert!(
            text.contains("3.91 GiB") && text.contains("above 2.00 GiB"),
            "{text}"
        );
        assert_eq!(fault.clone().within(u64::MAX), fault);
        let text = DeviceFault::new("can't allocate buffer of size: 17\nnone").to_string();
        assert!(text.contains("17 bytes"), "{text}");
        let other = DeviceFault::new("Memory page 0 doesn't exist\n  at somewhere");
        assert_eq!(
            other.to_string(),
            "Memory page 0 doesn't exist at somewhere"
        );
    }
}
