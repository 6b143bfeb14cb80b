//! Memory does not grow with the length of a clip. A program of its own with this one test: it counts
//! what the whole process allocates, which other tests would do meanwhile.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Distribution, Tensor};
use burn_flex::{Flex, FlexDevice};
use longcat_vae::{Tiling, VaeOptions, WanVae, WanVaeConfig};

/// Counts the bytes that are allocated, and the most there ever were.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held at once, beyond what was held before.
fn peak_of(work: impl FnOnce()) -> f64 {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work();
    (PEAK.load(Ordering::Relaxed) - before) as f64
}

fn random(shape: [usize; 5]) -> Tensor<Flex, 5> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &FlexDevice)
}

const SIZE: usize = 64;

fn decode(vae: &WanVae<Flex>, frames: usize, options: &VaeOptions) {
    let latents = random([1, 16, 1 + (frames - 1) / 4, SIZE / 8, SIZE / 8]);
    let chunks = vae.decode_chunks(latents, options).unwrap();
    assert_eq!(chunks.map(|chunk| chunk.dims()[2]).sum::<usize>(), frames);
}

fn encode(vae: &WanVae<Flex>, frames: usize, options: &VaeOptions) {
    let mut stream = vae.encode_stream([SIZE, SIZE], options).unwrap();
    for _ in 0..frames {
        stream.push(random([1, 3, 1, SIZE, SIZE])).unwrap();
    }
    assert_eq!(
        stream.finish().unwrap().mean.dims()[2],
        1 + (frames - 1) / 4
    );
}

#[test]
fn peaks_do_not_grow_with_the_length_and_shrink_with_tiles() {
    let config = WanVaeConfig {
        base_dim: 8,
        decoder_base_dim: 8,
        dim_mult: vec![1, 1, 2, 2],
        num_res_blocks: 1,
        ..WanVaeConfig::default()
    };
    let vae = WanVae::<Flex>::new(&config, &FlexDevice);
    let whole = VaeOptions::default();
    // Draws the weights, starts the threads.
    decode(&vae, 5, &whole);
    encode(&vae, 5, &whole);

    for (name, run) in [
        ("decode", decode as fn(&WanVae<Flex>, usize, &VaeOptions)),
        ("encode", encode),
    ] {
        let (short, long) = (
            peak_of(|| run(&vae, 33, &whole)),
            peak_of(|| run(&vae, 65, &whole)),
        );
        println!("{name}: 33 frames {short:.3e} bytes, 65 frames {long:.3e} bytes");
        assert!(long < 1.1 * short, "{name}: {short} bytes, then {long}");
    }

    let tiles = VaeOptions {
        tiling: Some(Tiling {
            tile: [48; 2],
            stride: [40; 2],
        }),
        ..whole.clone()
    };
    let latents = random([1, 16, 2, 16, 16]);
    let peak = |options: &VaeOptions| {
        peak_of(|| {
            let go_on = &mut |_| ControlFlow::Continue(());
            vae.decode_with(latents.clone(), options, go_on).unwrap();
        })
    };
    let (whole, tiled) = (peak(&whole), peak(&tiles));
    println!("whole {whole:.3e} bytes, in tiles {tiled:.3e} bytes");
    assert!(tiled < 0.5 * whole, "{whole} bytes, in tiles {tiled}");
}
