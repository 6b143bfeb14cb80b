//! Attention takes memory in proportion to the tokens, not to their square.
//!
//! The allocator counts for the whole process, so the measurement runs in a process of its own.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use burn::tensor::{Tensor, backend::Backend};
use burn_backend::tensor::FloatTensor;
use burn_flex::Flex;
use longcat_kernels::{BsaParams, EmptySelection, attention, bsa_attention, portable};

use crate::support::normal;

/// Set in the process that measures.
const MEASURING: &str = "LONGCAT_TEST_MEASURES_MEMORY";

/// The system's allocator, with a count of what is held and the most that ever was.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's doing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(held, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most MiB that `work` held beyond what was held before it.
fn peak_mib<T>(work: impl FnOnce() -> T) -> usize {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    drop(work());
    (PEAK.load(Relaxed) - before) >> 20
}

fn primitive(x: &Tensor<Flex, 4>) -> FloatTensor<Flex> {
    x.clone().into_primitive().tensor()
}

#[test]
fn eight_thousand_tokens_fit_in_256_mib() {
    if env::var_os(MEASURING).is_some() {
        return measure();
    }
    let alone = Command::new(env::current_exe().unwrap())
        .args(["--exact", "memory::eight_thousand_tokens_fit_in_256_mib"])
        .env(MEASURING, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&alone.stdout);
    assert!(alone.status.success(), "{said}");
    assert!(said.contains("1 passed"), "nothing was measured: {said}");
}

fn measure() {
    const LIMIT: usize = 256;
    let device = <Flex as burn::tensor::backend::BackendTypes>::Device::default();
    Flex::seed(&device, 1);
    let [q, k, v] = [(); 3].map(|()| normal::<Flex, 4>([1, 8, 8192, 32], &device));

    let used = peak_mib(|| attention(q.clone(), k.clone(), v.clone(), 0.2));
    assert!(used <= LIMIT, "attention on the CPU took {used} MiB");

    // The portable bodies go from tile to tile of queries: fewer of them take less time, and less
    // memory only by their own inputs and outputs.
    let q = q.narrow(2, 0, 1024);

    let forward = || {
        portable::attention_forward::<Flex>(primitive(&q), primitive(&k), primitive(&v), None, 0.2)
    };
    let used = peak_mib(forward);
    assert!(used <= LIMIT, "portable attention took {used} MiB");

    let (out, lse) = forward();
    let used = peak_mib(|| {
        let [q, k, v] = [&q, &k, &v].map(primitive);
        let d_out = out.clone();
        portable::attention_backward::<Flex>(q, k, v, out, lse, d_out, None, 0.2)
    });
    assert!(used <= LIMIT, "portable attention backward took {used} MiB");

    // The widest list there is: any block may be kept.
    let params = BsaParams {
        sparsity: Some(0.75),
        cdf_threshold: Some(0.1),
        chunk_3d_shape_q: [1, 8, 8],
        chunk_3d_shape_k: [4, 4, 4],
        empty_selection: EmptySelection::KeepBest,
    };
    let used =
        peak_mib(|| bsa_attention(q, k.clone(), v.clone(), [1, 32, 32], [8, 32, 32], &params));
    assert!(used <= LIMIT, "block-sparse attention took {used} MiB");
}
