//! Attention in eight bits against the bf16 kernels, which `cuda_check attention` holds against f32: dense with
//! a ragged end, and over lists with short and empty ones and padded key blocks; on plain numbers, large
//! channels, a channel that all keys have in common, and one key that takes most of the weight.

use burn::tensor::{DType, Distribution, Int, Tensor, TensorData};
use longcat_kernels::cube::launches;
use longcat_kernels::{AttentionNumbers, BlockList, KernelBackend, KernelDevice, attention_in};

use crate::random::Random;
use crate::{Device, Gpu, float, raw, relative_error};

type Quad = Tensor<Gpu, 4>;

const HEADS: [usize; 2] = [2, 2];
const WIDTH: usize = 128;
/// Neither is whole tiles.
const QUERIES: usize = 1003;
const KEYS: usize = 5001;
/// Tokens of lists of blocks of 64.
const LISTED: usize = 4096;
const BLOCK: usize = 64;
/// Blocks of a list at most.
const KEPT: usize = 24;

/// Numbers that attention is computed of, and how far its result in eight bits may be off. Rounding to e4m3
/// alone is 2.6 % of each probability and of each value.
const KINDS: [(&str, f64); 4] = [
    ("plain", 0.05),
    ("large channels", 0.05),
    ("common channel", 0.02),
    ("one heavy key", 0.05),
];

pub fn run(device: &Device) -> bool {
    if !Gpu::has_fp8_attention(device, DType::BF16) {
        println!("attention_fp8: this device does not attend in fp8 FAILED");
        return false;
    }
    let before = launches().forward_fp8;
    let mut ok = true;
    for (kind, most) in KINDS {
        for dtype in [DType::BF16, DType::F16] {
            ok &= check(kind, most, dtype, None, device);
            let list = list(device);
            ok &= check(kind, most, dtype, Some(&list), device);
        }
    }
    ok &= check_scale(device);
    let ran = launches().forward_fp8 - before;
    // Each runs twice, and the last one once.
    let expected = 2 * 2 * 2 * KINDS.len() as u64 + 1;
    let all = ran == expected;
    println!(
        "attention_fp8: {ran} of {expected} calls ran in eight bits{}",
        failed(all)
    );
    ok && all
}

fn check(
    kind: &str,
    most: f64,
    dtype: DType,
    list: Option<&BlockList<Gpu>>,
    device: &Device,
) -> bool {
    let [queries, keys] = match list {
        Some(_) => [LISTED; 2],
        None => [QUERIES, KEYS],
    };
    let [q, k, v] = inputs(kind, [queries, keys], dtype, device);
    let scale = (WIDTH as f64).powf(-0.5);
    let attend = || {
        let [q, k, v] = [&q, &k, &v].map(|x| raw(x.clone()));
        let out = Gpu::attention_eight_bit(q, k, v, list.cloned(), scale);
        host(float(out))
    };
    let (got, again) = (attend(), attend());
    let (want, _) = Gpu::attention_forward(raw(q), raw(k), raw(v), list.cloned(), scale);
    let want = host(float(want));
    let error = relative_error(&got, &want);
    // Queries without a key get zeros from both.
    let empty = got.chunks(WIDTH).zip(want.chunks(WIDTH));
    let mut empty = empty.filter(|(_, want)| want.iter().all(|x| *x == 0.0));
    let zeros = empty.all(|(got, _)| got.iter().all(|x| *x == 0.0));
    let (bits, good) = (got == again, error < most);
    println!(
        "check {} {kind} {dtype:?}: relative L2 error {error:.2e}{}{}{}",
        if list.is_some() { "sparse" } else { "dense" },
        failed(good),
        if bits {
            ""
        } else {
            ", other bits the second time FAILED"
        },
        if zeros {
            ""
        } else {
            ", results without keys FAILED"
        },
    );
    good && bits && zeros
}

/// Large outputs of few tokens that all attend to one: the value itself, to e4m3's digits.
fn check_scale(device: &Device) -> bool {
    let shape = [1, 1, 1024, WIDTH];
    let q = Quad::ones(shape, (device, DType::BF16));
    let v = Quad::full(shape, 300.0, (device, DType::BF16));
    let out = attention_in(AttentionNumbers::Fp8, q.clone(), q, v, 1.0);
    let good = host(out).iter().all(|x| (x - 300.0).abs() < 1.0);
    println!("check equal values{}", failed(good));
    good
}

fn failed(good: bool) -> &'static str {
    match good {
        true => "",
        false => " FAILED",
    }
}

/// Queries, keys and values `[B, H, N, D]`, tokens outermost in memory as a transformer has them.
fn inputs(kind: &str, [queries, keys]: [usize; 2], dtype: DType, device: &Device) -> [Quad; 3] {
    let [batch, heads] = HEADS;
    let normal = |tokens: usize| {
        let shape = [batch, tokens, heads, WIDTH];
        Quad::random(shape, Distribution::Normal(0.0, 1.0), device)
    };
    // A factor, and what is added, for each channel.
    let channels = |of: &dyn Fn(usize) -> f32| {
        let numbers: Vec<f32> = (0..WIDTH).map(of).collect();
        Quad::from_data(TensorData::new(numbers, [1, 1, 1, WIDTH]), device)
    };
    let large = |factor: f32, of: usize| {
        channels(&move |channel| if channel % of == 3 { factor } else { 1.0 })
    };
    let [q, k, v] = match kind {
        "large channels" => [
            normal(queries) * large(16.0, 32),
            normal(keys) * large(16.0, 32),
            normal(keys),
        ],
        "common channel" => [
            normal(queries) * large(4.0, 64),
            normal(keys) + large(16.0, 64) - 1.0,
            normal(keys) + 2.0,
        ],
        "one heavy key" => {
            let towards = channels(&|_| 1.0);
            let heavy = keys / 3;
            let k = normal(keys);
            let place = [0..batch, heavy..heavy + 1, 0..heads, 0..WIDTH];
            let own = (towards.clone() * 0.95).expand([batch, 1, heads, WIDTH]);
            [
                normal(queries) + towards,
                k.slice_assign(place, own),
                normal(keys),
            ]
        }
        _ => [normal(queries), normal(keys), normal(keys)],
    };
    [q, k, v].map(|x| x.cast(dtype).swap_dims(1, 2))
}

/// Sorted lists of up to [`KEPT`] key blocks, some of them empty; two key blocks are not full.
fn list(device: &Device) -> BlockList<Gpu> {
    let [batch, heads] = HEADS;
    let blocks = LISTED / BLOCK;
    let rows = batch * heads * blocks;
    let mut random = Random(28);
    let mut indices = Vec::with_capacity(rows * KEPT);
    let mut counts = Vec::with_capacity(rows);
    for row in 0..rows {
        let keys = random.normals(blocks);
        let mut order: Vec<usize> = (0..blocks).collect();
        order.sort_by(|a, b| keys[*a].total_cmp(&keys[*b]));
        let mut kept = order[..KEPT].to_vec();
        kept.sort_unstable();
        indices.extend(kept.iter().map(|block| *block as i32));
        // The first row has all, so that the widest list is read to its end.
        counts.push(if row == 0 { KEPT } else { row * 7 % (KEPT + 1) } as i32);
    }
    let mut valid = vec![BLOCK as i32; blocks];
    valid[blocks / 2] = 37;
    valid[blocks - 1] = 5;
    let ints = |numbers: Vec<i32>| {
        let count = numbers.len();
        Tensor::<Gpu, 1, Int>::from_data(TensorData::new(numbers, [count]), device)
    };
    let indices = ints(indices).reshape([batch, heads, blocks, KEPT]);
    BlockList {
        indices: indices.into_primitive(),
        counts: ints(counts)
            .reshape([batch, heads, blocks])
            .into_primitive(),
        key_valid: Some(ints(valid).into_primitive()),
        block_q: BLOCK,
        block_k: BLOCK,
    }
}

fn host(tensor: Quad) -> Vec<f32> {
    tensor
        .cast(DType::F32)
        .into_data()
        .to_vec()
        .expect("f32 data")
}
