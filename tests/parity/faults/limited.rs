//! A Vulkan device with less room than it has.

use burn::tensor::{DType, Tensor};
use burn_wgpu::{Wgpu, WgpuDevice};
use longcat_kernels::{KernelDevice, guard, watch_device_threads};
use longcat_tests::own_wgpu_device;
use longcat_text::{TextError, Umt5Encoder};
use longcat_video::{DeviceError, Stage};
use longcat_weights::{NameMap, WeightFiles, WeightsError, collect_module};

use super::checkpoint;

/// A device of its own whose buffers have at most so many bytes.
fn limited(bytes: u64) -> WgpuDevice {
    watch_device_threads();
    own_wgpu_device(Some(bytes)).0
}

fn zeros(bytes: u64, device: &WgpuDevice) -> Tensor<Wgpu, 1> {
    Tensor::zeros([bytes as usize / 4], (device, DType::F32))
}

fn guarded<T>(device: &WgpuDevice, work: impl FnOnce() -> T) -> Result<T, DeviceError> {
    guard::<Wgpu, _, _>(std::slice::from_ref(device), Stage::Decoding, || Ok(work()))
}

#[test]
fn a_buffer_over_the_limit_is_an_error_of_the_stage() {
    let limit = 1 << 20;
    let (device, other) = (limited(limit), limited(limit));
    assert_eq!(<Wgpu>::max_tensor_bytes(&device), limit);
    assert!(guarded(&device, || zeros(limit / 2, &device) + 1.0).is_ok());

    let error = guarded(&device, || zeros(3 * limit, &device) + 1.0).unwrap_err();
    assert_eq!(error.fault.requested(), Some(3 * limit));
    let message = error.to_string();
    for word in ["decoding", "3.0 MiB", "1.0 MiB", "--memory"] {
        assert!(message.contains(word), "{message}");
    }
    // What the device holds is not known from now on, whatever it is asked for.
    assert_eq!(guarded(&device, || ()).unwrap_err(), error);

    // Reading panics inside Burn.
    assert!(guarded(&other, || zeros(64, &other)).is_ok());
    let error = guarded(&other, || zeros(5 * limit, &other).into_data()).unwrap_err();
    assert_eq!(error.fault.requested(), Some(5 * limit));
}

#[test]
fn panics_that_are_no_fault_of_the_device_go_on() {
    let device = limited(1 << 20);
    let caught = std::panic::catch_unwind(|| guarded(&device, || assert_eq!(1, 2, "a mistake")));
    assert!(caught.is_err());
    assert!(guarded(&device, || zeros(64, &device)).is_ok());
}

/// The table of the small checkpoint has 300 rows of 192 bytes. (How rows of pieces are found is tested
/// beside the code, on the CPU: the kernels of an encoder take a minute to compile.)
#[test]
fn a_table_over_the_limit_is_held_in_pieces() {
    let dir = checkpoint().join("text_encoder");
    let held = |bytes: u64| {
        let device = limited(bytes);
        let (encoder, _) = Umt5Encoder::<Wgpu>::load(&dir, DType::F32, &device)?;
        let weights = guarded(&device, || collect_module(&encoder, &NameMap::new(&[])));
        let mut pieces = weights.unwrap()?;
        pieces.retain(|weight| weight.name.starts_with("shared."));
        pieces.sort_by(|a, b| a.name.cmp(&b.name));
        Ok::<_, TextError>(pieces)
    };
    let pieces = held(48_000).unwrap();
    assert_eq!(pieces.len(), 2);
    let rows = pieces.iter().flat_map(|piece| piece.data.iter::<f32>());
    let files = WeightFiles::open(&dir).unwrap();
    let whole = files.tensor_data("shared.weight").unwrap();
    assert!(rows.eq(whole.iter::<f32>()));

    // Its largest other weight has 12288 bytes.
    let error = held(8_192).unwrap_err();
    let TextError::Weights(WeightsError::TooLarge {
        key, bytes, most, ..
    }) = &error
    else {
        panic!("{error}");
    };
    assert_eq!((*bytes, *most), (12_288, 8_192), "{key}");
}
