//! Uploads to a wgpu device by several threads, into memory that was in use a moment before.

use std::thread;

use burn::tensor::{DType, Distribution, Tensor, TensorPrimitive};
use burn_wgpu::{Wgpu, WgpuDevice};
use longcat_kernels::{KernelDevice, adopt_wgpu_device};
use longcat_tests::own_wgpu_device;

/// Below what goes through shared memory, one buffer's worth and a rest, and more than all its buffers.
const ELEMENTS: [usize; 3] = [1000, (1 << 20) + 77, 18_000_001];

/// A device of its own, whose queue is known.
fn adopted() -> WgpuDevice {
    let (device, setup) = own_wgpu_device(None);
    adopt_wgpu_device(&device, &setup);
    device
}

/// Whether tensors arrive as they were sent.
fn check(number: usize, device: &WgpuDevice) {
    for elements in ELEMENTS {
        // Memory of this size is written to until just before it is used again.
        let uniform = Distribution::Uniform(-1.0, 1.0);
        let busy = Tensor::<Wgpu, 1>::random([elements], uniform, device);
        drop(busy.clone() * 2.0);
        drop(busy);
        let sent: Vec<f32> = (0..elements)
            .map(|at| ((at * 31 + number * 7) % 8191) as f32)
            .collect();
        let bytes: Vec<u8> = sent.iter().flat_map(|x| x.to_le_bytes()).collect();
        let row = <Wgpu>::float_from_bytes(&bytes, DType::F32, device);
        // The bytes may go at once.
        drop(bytes);
        let row = Tensor::<Wgpu, 1>::from_primitive(TensorPrimitive::Float(row));
        let found: Vec<f32> = (row + 1.0).into_data().to_vec().unwrap();
        let wrong = found.iter().zip(&sent).filter(|(a, b)| **a != **b + 1.0);
        assert_eq!((found.len(), wrong.count()), (elements, 0), "{elements}");
    }
}

#[test]
fn what_threads_upload_arrives() {
    let device = adopted();
    thread::scope(|scope| {
        for number in 0..3 {
            let device = &device;
            scope.spawn(move || check(number, device));
        }
    });
    // Half a word more than whole words.
    let odd: Vec<u8> = (0..300_001_u32).flat_map(|_| [0, 0x3c]).collect();
    let row = <Wgpu>::float_from_bytes(&odd, DType::F16, &device);
    let row = Tensor::<Wgpu, 1>::from_primitive(TensorPrimitive::Float(row));
    assert_eq!(row.into_data().bytes.to_vec(), odd);
}
