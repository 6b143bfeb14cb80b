//! Random shapes against the portable body on the CPU in f32.

use burn::tensor::{DType, Int, Shape, Tensor, TensorData, backend::Backend};
use burn_flex::Flex;
use longcat_kernels::{BlockList, KernelBackend, cube::launches, portable};

use crate::{Device, Gpu, TOLERANCE, error_above, float, norm, random::Random, raw};

/// One call, on the host. Values are multiples of what the dtype can hold.
struct Case {
    dtype: DType,
    queries: [usize; 4],
    keys: [usize; 4],
    values: [Vec<f32>; 4],
    list: Option<List>,
}

struct List {
    indices: Vec<i32>,
    counts: Vec<i32>,
    key_valid: Option<Vec<i32>>,
    width: usize,
    block_q: usize,
    block_k: usize,
}

pub fn run(device: &Device, count: usize, seed: u64) -> bool {
    let mut random = Random(20_261_123 + seed);
    let mut worst = 0.0f64;
    for index in 0..count {
        match check(device, index, &Case::draw(&mut random)) {
            Some(error) => worst = worst.max(error),
            None => return false,
        }
    }
    println!("fuzz: {count} shapes, worst error {worst:.2} of the tolerance");
    true
}

/// Draws shapes until each attention kernel that this device runs has been launched.
pub fn small(device: &Device) -> bool {
    const MOST: usize = 40;
    let mut random = Random(20_261_123);
    for index in 0..MOST {
        if check(device, index, &Case::draw(&mut random)).is_none() {
            return false;
        }
        let seen = launches();
        let kernels = [
            seen.forward_hopper,
            seen.forward_mma,
            seen.forward_plain,
            seen.backward_hopper,
            seen.backward_mma,
            seen.backward_plain,
        ];
        if kernels.iter().all(|launched| *launched > 0) {
            println!(
                "small: every attention kernel ran within {} shapes",
                index + 1
            );
            return true;
        }
    }
    println!("small: {MOST} shapes; the kernels without launches do not run on this device");
    true
}

/// The worst error of a case in tolerances, or `None`, with a message, where it is too large.
fn check(device: &Device, index: usize, case: &Case) -> Option<f64> {
    let want = case.run::<Flex>(&Default::default(), DType::F32, true);
    let got = case.run::<Gpu>(device, case.dtype, false);
    let tolerance = match case.dtype {
        DType::F32 => 1e-4,
        _ => TOLERANCE,
    };
    // A gradient that is zero in exact arithmetic (one key, say) is rounding noise: gradients
    // are measured against a tenth of the largest at least.
    let largest = want[1..].iter().map(|x| norm(x)).fold(0.0, f64::max);
    let mut worst = 0.0f64;
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let floor = if i == 0 { 0.0 } else { 0.1 * largest };
        let error = error_above(got, want, floor);
        worst = worst.max(error / tolerance);
        if error.is_nan() || error > tolerance {
            println!("fuzz case {index}, tensor {i}: relative L2 error {error:.2e}: {case}");
            return None;
        }
    }
    Some(worst)
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} queries {:?} keys {:?}",
            self.dtype, self.queries, self.keys
        )?;
        match &self.list {
            Some(list) => write!(
                f,
                " blocks {}x{}, {} listed, ragged {}",
                list.block_q,
                list.block_k,
                list.width,
                list.key_valid.is_some(),
            ),
            None => Ok(()),
        }
    }
}

impl Case {
    fn draw(random: &mut Random) -> Self {
        let (dtype, head_dim) = random.pick(&[
            (DType::BF16, 128),
            (DType::BF16, 64),
            (DType::BF16, 16),
            (DType::BF16, 256),
            (DType::BF16, 40),
            (DType::F16, 128),
            (DType::F16, 96),
            (DType::F32, 64),
            (DType::F32, 20),
        ]);
        let (batch, heads) = (1 + random.below(2), 1 + random.below(3));
        let sparse = random.below(3) > 0;
        let (block_q, block_k) =
            random.pick(&[(64, 64), (16, 16), (64, 128), (128, 64), (32, 32), (12, 18)]);
        let (query_blocks, key_blocks) = (1 + random.below(5), 1 + random.below(8));
        let (queries, keys) = if sparse {
            (query_blocks * block_q, key_blocks * block_k)
        } else {
            (1 + random.below(400), 1 + random.below(500))
        };
        let list = sparse.then(|| {
            let rows = batch * heads * query_blocks;
            let width = 1 + random.below(key_blocks);
            let mut list = List {
                indices: Vec::new(),
                counts: Vec::new(),
                key_valid: (random.below(2) == 0).then(|| {
                    (0..key_blocks)
                        .map(|_| 1 + random.below(block_k) as i32)
                        .collect()
                }),
                width,
                block_q,
                block_k,
            };
            for _ in 0..rows {
                let taken = random.below(width + 1);
                let mut blocks: Vec<i32> = (0..key_blocks as i32).collect();
                while blocks.len() > taken {
                    blocks.remove(random.below(blocks.len()));
                }
                blocks.resize(width, 0);
                list.counts.push(taken as i32);
                list.indices.extend(blocks);
            }
            list
        });
        let queries = [batch, heads, queries, head_dim];
        let keys = [batch, heads, keys, head_dim];
        let values = [queries, keys, keys, queries].map(|shape| {
            let mut values = random.normals(shape.iter().product());
            for value in &mut values {
                *value = match dtype {
                    DType::BF16 => f32::from_bits(value.to_bits() & 0xffff_0000),
                    DType::F16 => f32::from_bits(value.to_bits() & 0xffff_e000),
                    _ => *value,
                };
            }
            values
        });
        Self {
            dtype,
            queries,
            keys,
            values,
            list,
        }
    }

    /// `[out, dq, dk, dv]`, by the portable body or by the backend's own kernels.
    fn run<B: KernelBackend>(
        &self,
        device: &B::Device,
        dtype: DType,
        portably: bool,
    ) -> Vec<Vec<f32>> {
        let shapes = [self.queries, self.keys, self.keys, self.queries];
        let mut tensors = shapes.iter().zip(&self.values).map(|(shape, values)| {
            let data = TensorData::new(values.clone(), Shape::from(*shape));
            raw(Tensor::<B, 4>::from_data(data, device).cast(dtype))
        });
        let mut next = || tensors.next().expect("four tensors");
        let (q, k, v, d_out) = (next(), next(), next(), next());
        let list = || {
            self.list
                .as_ref()
                .map(|list| list.on::<B>(device, self.queries))
        };
        let scale = 1.0 / (self.queries[3] as f64).sqrt();
        let (out, lse) = if portably {
            portable::attention_forward::<B>(q.clone(), k.clone(), v.clone(), list(), scale)
        } else {
            B::attention_forward(q.clone(), k.clone(), v.clone(), list(), scale)
        };
        let backward = if portably {
            portable::attention_backward::<B>
        } else {
            B::attention_backward
        };
        let (dq, dk, dv) = backward(q, k, v, out.clone(), lse, d_out, list(), scale);
        [out, dq, dk, dv]
            .map(|x| {
                float::<B, 4>(x)
                    .cast(DType::F32)
                    .into_data()
                    .to_vec()
                    .expect("f32 data")
            })
            .into()
    }
}

impl List {
    fn on<B: Backend>(&self, device: &B::Device, [b, h, queries, _]: [usize; 4]) -> BlockList<B> {
        let rows = queries / self.block_q;
        let ints = |values: &[i32], shape: Shape| TensorData::new(values.to_vec(), shape);
        BlockList {
            indices: Tensor::<B, 4, Int>::from_data(
                ints(&self.indices, Shape::from([b, h, rows, self.width])),
                device,
            )
            .into_primitive(),
            counts: Tensor::<B, 3, Int>::from_data(
                ints(&self.counts, Shape::from([b, h, rows])),
                device,
            )
            .into_primitive(),
            key_valid: self.key_valid.as_ref().map(|valid| {
                Tensor::<B, 1, Int>::from_data(ints(valid, Shape::from([valid.len()])), device)
                    .into_primitive()
            }),
            block_q: self.block_q,
            block_k: self.block_k,
        }
    }
}
