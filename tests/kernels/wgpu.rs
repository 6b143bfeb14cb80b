//! The fused kernels on wgpu (a software Vulkan driver will do): golden cases, and random shapes
//! against the portable body on the CPU.

use std::{fs, path::PathBuf, sync::Mutex};

use burn::tensor::{
    DType, Distribution, Int, Tensor, TensorData, TensorPrimitive, backend::Backend,
};
use burn_autodiff::Autodiff;
use burn_cubecl::{CubeBackend, cubecl::Runtime};
use burn_flex::Flex;
use burn_wgpu::{WgpuDevice, WgpuRuntime};
use longcat_kernels::{
    BlockList, BlockRule, BsaParams, EmptySelection, KernelBackend, bsa, cube::launches, linear,
    portable,
};
use safetensors::SafeTensors;
use serde_json::Value;

type Wgpu = CubeBackend<WgpuRuntime, f32, i32, u32>;

/// The counters of launches are those of the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let size = norm(&mut want.iter().map(|x| f64::from(*x)));
    let error = norm(&mut got.iter().zip(want).map(|(a, b)| f64::from(a - b)));
    if size == 0.0 { error } else { error / size }
}

fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().to_vec().unwrap()
}

fn raw<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> B::FloatTensorPrimitive {
    tensor.into_primitive().tensor()
}

fn float<B: Backend, const D: usize>(primitive: B::FloatTensorPrimitive) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

#[test]
fn golden_cases_run_on_the_fused_kernels() {
    let _guard = ONE_AT_A_TIME.lock();
    let root = std::env::var_os("LONGCAT_GOLDEN_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/golden")),
        PathBuf::from,
    );
    let json =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let manifest = json(root.join("manifest.json"));
    let mut seen = 0;
    for case in manifest["cases"].as_array().unwrap() {
        if case["kind"] == "bsa" {
            let folder = root.join(case["path"].as_str().unwrap());
            golden(&json(folder.join("case.json")), &folder);
            seen += 1;
        }
    }
    assert!(seen > 0, "no bsa cases in {}", root.display());
}

fn golden(spec: &Value, folder: &std::path::Path) {
    type Ad = Autodiff<Wgpu>;
    let device = Default::default();
    let files = ["inputs", "expected"]
        .map(|name| fs::read(folder.join(name).with_extension("safetensors")).unwrap());
    let read = |file: usize, key: &str| -> Option<TensorData> {
        let tensors = SafeTensors::deserialize(&files[file]).unwrap();
        let view = tensors.tensor(key).ok()?;
        let values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|x| f32::from_le_bytes(x.try_into().unwrap()))
            .collect();
        Some(TensorData::new(values, view.shape().to_vec()))
    };
    let check = |key: &str, got: Vec<f32>| {
        let Some(want) = read(1, key) else { return };
        let tolerance = spec["tolerances"][key]
            .as_f64()
            .unwrap_or_else(|| spec["tolerance"].as_f64().unwrap());
        let error = error(&got, &want.to_vec::<f32>().unwrap());
        assert!(
            error <= tolerance,
            "{} {key}: {error:e} > {tolerance:e}",
            spec["name"]
        );
    };
    let grid =
        |key: &str| -> [usize; 3] { serde_json::from_value(spec["params"][key].clone()).unwrap() };
    let params = BsaParams {
        sparsity: spec["params"]["sparsity"].as_f64(),
        cdf_threshold: spec["params"]["cdf_threshold"].as_f64(),
        chunk_3d_shape_q: grid("chunk_3d_shape_q"),
        chunk_3d_shape_k: grid("chunk_3d_shape_k"),
        empty_selection: EmptySelection::Zero,
    };
    let (grid_q, grid_k) = (grid("latent_shape_q"), grid("latent_shape_k"));
    let input = |key: &str| Tensor::<Wgpu, 4>::from_data(read(0, key).unwrap(), &device);
    let tracked = |key: &str| Tensor::<Ad, 4>::from_inner(input(key)).require_grad();

    let mask = bsa::block_mask(input("q"), input("k"), grid_q, grid_k, &params);
    let expected = SafeTensors::deserialize(&files[1]).unwrap();
    let expected: Vec<bool> = expected
        .tensor("block_mask")
        .unwrap()
        .data()
        .iter()
        .map(|x| *x != 0)
        .collect();
    assert_eq!(
        mask.into_data().iter::<bool>().collect::<Vec<_>>(),
        expected,
        "{}",
        spec["name"]
    );

    let before = launches();
    let (q, k, v) = (tracked("q"), tracked("k"), tracked("v"));
    let (out, lse) =
        bsa::bsa_attention_with_lse(q.clone(), k.clone(), v.clone(), grid_q, grid_k, &params);
    check("out", values(out.clone().inner()));
    check("lse", values(lse.inner()));
    let grads = (out * Tensor::from_inner(input("d_out"))).sum().backward();
    for (key, leaf) in [("dq", q), ("dk", k), ("dv", v)] {
        check(key, values(leaf.grad(&grads).unwrap()));
    }
    let after = launches();
    assert!(after.forward_plain + after.forward_mma > before.forward_plain + before.forward_mma);
    assert!(
        after.backward_plain + after.backward_mma > before.backward_plain + before.backward_mma
    );
    if params.cdf_threshold.is_none() {
        assert!(after.selection > before.selection);
    }
}

#[test]
fn random_shapes_agree_with_the_portable_body() {
    let _guard = ONE_AT_A_TIME.lock();
    let device = Default::default();
    for (i, (dtype, queries, keys, head_dim)) in [
        (DType::F32, 33, 47, 16),
        (DType::F32, 5, 70, 20),
        (DType::F32, 64, 16, 128),
        (DType::F32, 32, 32, 128),
        (DType::F32, 32, 8, 128),
        (DType::F32, 1, 1, 256),
        (DType::F16, 40, 40, 64),
    ]
    .into_iter()
    .enumerate()
    {
        let scale = 1.0 / (head_dim as f64).sqrt();
        let tolerance = if dtype == DType::F32 { 1e-5 } else { 5e-3 };
        let tensors = [queries, keys, keys, queries].map(|tokens| {
            Tensor::<Flex, 4>::random(
                [1, 2, tokens, head_dim],
                Distribution::Normal(0.0, 1.0),
                &Default::default(),
            )
            .cast(dtype)
            .cast(DType::F32)
        });
        let run = |fused: bool| {
            let [q, k, v, d_out] = tensors.clone();
            if fused {
                let [q, k, v, d_out] = [q, k, v, d_out]
                    .map(|x| raw(Tensor::<Wgpu, 4>::from_data(x.into_data(), &device).cast(dtype)));
                let (out, lse) =
                    Wgpu::attention_forward(q.clone(), k.clone(), v.clone(), None, scale);
                let (dq, dk, dv) =
                    Wgpu::attention_backward(q, k, v, out.clone(), lse, d_out, None, scale);
                [out, dq, dk, dv].map(|x| values(float::<Wgpu, 4>(x)))
            } else {
                let [q, k, v, d_out] = [q, k, v, d_out].map(raw);
                let (out, lse) = portable::attention_forward::<Flex>(
                    q.clone(),
                    k.clone(),
                    v.clone(),
                    None,
                    scale,
                );
                let (dq, dk, dv) = portable::attention_backward::<Flex>(
                    q,
                    k,
                    v,
                    out.clone(),
                    lse,
                    d_out,
                    None,
                    scale,
                );
                [out, dq, dk, dv].map(|x| values(float::<Flex, 4>(x)))
            }
        };
        let before = launches();
        for (tensor, (got, want)) in run(true).iter().zip(run(false)).enumerate() {
            // A single key has no score gradient: what is left of dq and dk is rounding.
            if keys > 1 || tensor == 0 || tensor == 3 {
                let error = error(got, &want);
                assert!(error < tolerance, "case {i}, tensor {tensor}: {error:e}");
            }
        }
        assert!(launches().forward_plain > before.forward_plain);
    }
}

fn has_cooperative_matrices(device: &WgpuDevice) -> bool {
    let client = WgpuRuntime::client(device);
    let matrices = &client.properties().features.matmul.cmma;
    matrices.iter().any(|of| (of.m, of.n, of.k) == (16, 16, 16))
}

/// Heads of the released width, by cooperative matrices where the device has them: rows that fill no tile, maxima that
/// grow from step to step, lists of blocks.
#[test]
fn attention_in_two_bytes_is_right() {
    let _guard = ONE_AT_A_TIME.lock();
    let device = Default::default();
    let cooperative = has_cooperative_matrices(&device);
    for (queries, keys, spread, listed) in [
        (150, 333, 1.0, false),
        (70, 200, 4.0, false),
        (128, 320, 2.0, true),
    ] {
        let [q, k, v] = [(queries, spread), (keys, spread), (keys, 1.0)].map(|(tokens, spread)| {
            let spread = Distribution::Normal(0.0, spread);
            let shape = [1, 2, tokens, 128];
            let x = Tensor::<Flex, 4>::random(shape, spread, &Default::default());
            x.cast(DType::F16).cast(DType::F32)
        });
        let scale = 1.0 / 128_f64.sqrt();
        let before = launches();
        let on_gpu = |x: &Tensor<Flex, 4>| {
            raw(Tensor::<Wgpu, 4>::from_data(x.to_data(), &device).cast(DType::F16))
        };
        let blocks = listed.then(|| three_of_five_blocks::<Wgpu>(&device));
        let (got, _) = Wgpu::attention_forward(on_gpu(&q), on_gpu(&k), on_gpu(&v), blocks, scale);
        let blocks = listed.then(|| three_of_five_blocks::<Flex>(&Default::default()));
        let (want, _) = portable::attention_forward::<Flex>(raw(q), raw(k), raw(v), blocks, scale);
        let got = values(float::<Wgpu, 4>(got));
        let error = error(&got, &values(float::<Flex, 4>(want)));
        assert!(error < 1.5e-3, "{queries} x {keys}: {error:e}");
        if cooperative {
            assert!(launches().forward_cooperative > before.forward_cooperative);
        }
    }
}

/// Two blocks of 64 queries of two heads, which attend to two or three of five blocks of 64 keys.
fn three_of_five_blocks<B: Backend>(device: &B::Device) -> BlockList<B> {
    let ints = |values: &[i32]| TensorData::new(values.to_vec(), [values.len()]);
    let tensor = |values: &[i32]| Tensor::<B, 1, Int>::from_data(ints(values), device);
    BlockList {
        indices: tensor(&[0, 2, 4, 1, 3, 0, 2, 3, 0, 0, 1, 4])
            .reshape([1, 2, 2, 3])
            .into_primitive(),
        counts: tensor(&[3, 2, 2, 3]).reshape([1, 2, 2]).into_primitive(),
        key_valid: Some(tensor(&[64, 64, 10, 64, 33]).into_primitive()),
        block_q: 64,
        block_k: 64,
    }
}

/// Whatever kernel autotune chooses: odd multiples of 8 were wrong in double-buffered ones.
#[test]
fn products_are_right_for_every_inner_dimension() {
    let device = Default::default();
    for inner in [4, 8, 16, 24, 40, 56, 72, 264] {
        let x = Tensor::<Flex, 2>::random(
            [33, inner],
            Distribution::Normal(0.0, 1.0),
            &Default::default(),
        );
        let weight = Tensor::<Flex, 2>::random(
            [70, inner],
            Distribution::Normal(0.0, 1.0),
            &Default::default(),
        );
        let on_gpu = |x: &Tensor<Flex, 2>| Tensor::<Wgpu, 2>::from_data(x.to_data(), &device);
        let want = values(x.clone().matmul(weight.clone().transpose()));
        let linear = linear(on_gpu(&x), on_gpu(&weight), None);
        let product = portable::matmul(on_gpu(&x), on_gpu(&weight).transpose());
        for got in [values(linear), values(product)] {
            let error = error(&got, &want);
            assert!(error < 1e-5, "inner dimension {inner}: {error:e}");
        }
        // The gradient of the weight is a product over the rows.
        let tracked = Tensor::<Autodiff<Wgpu>, 2>::from_inner(on_gpu(&weight)).require_grad();
        let rows = Tensor::<Autodiff<Wgpu>, 2>::from_inner(on_gpu(&x).narrow(0, 0, 24));
        let grads = longcat_kernels::linear(rows, tracked.clone(), None)
            .sum()
            .backward();
        let want = x.narrow(0, 0, 24).sum_dim(0).repeat_dim(0, 70);
        let error = error(&values(tracked.grad(&grads).unwrap()), &values(want));
        assert!(error < 1e-5, "gradient, inner dimension {inner}: {error:e}");
    }
}

/// Products of more multiplications than take the kernel for little matrices, of a size that fills no tile.
#[test]
fn products_with_much_work_are_right() {
    let device = Default::default();
    let numbers = |shape: [usize; 2]| {
        Tensor::<Flex, 2>::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
    };
    let (x, weight, bias) = (numbers([301, 264]), numbers([265, 264]), numbers([1, 265]));
    let on_gpu = |x: &Tensor<Flex, 2>| Tensor::<Wgpu, 2>::from_data(x.to_data(), &device);
    let y = linear(
        on_gpu(&x),
        on_gpu(&weight),
        Some(on_gpu(&bias).reshape([265])),
    );
    let want = values(x.matmul(weight.transpose()) + bias);
    let error = error(&values(y), &want);
    assert!(error < 1e-5, "{error:e}");
}

/// Of two-byte floats, with rows and columns that fill no tile. Software Vulkan has no matrices for them, and
/// Burn's own choice among kernels takes minutes there.
#[test]
fn products_by_cooperative_matrices_are_right() {
    let device = Default::default();
    if !has_cooperative_matrices(&device) {
        return;
    }
    for (rows, inner, columns) in [(70, 64, 72), (300, 96, 200), (129, 160, 264)] {
        // Exact in two bytes.
        let numbers = |count: usize, step: usize| -> Vec<f32> {
            (0..count)
                .map(|i| ((i * step % 17) as f32 - 8.0) / 8.0)
                .collect()
        };
        let (x, weight, bias) = (
            numbers(rows * inner, 37),
            numbers(columns * inner, 23),
            numbers(columns, 5),
        );
        let want: Vec<f32> = (0..rows * columns)
            .map(|i| {
                let (row, column) = (i / columns, i % columns);
                let product: f64 = (0..inner)
                    .map(|k| f64::from(x[row * inner + k]) * f64::from(weight[column * inner + k]))
                    .sum();
                (product + f64::from(bias[column])) as f32
            })
            .collect();
        let matrix = |values: &[f32], shape: [usize; 2]| {
            Tensor::<Wgpu, 2>::from_data(TensorData::new(values.to_vec(), shape), &device)
                .cast(DType::F16)
        };
        let added = Tensor::<Wgpu, 1>::from_data(TensorData::new(bias.clone(), [columns]), &device)
            .cast(DType::F16);
        let got = linear(
            matrix(&x, [rows, inner]),
            matrix(&weight, [columns, inner]),
            Some(added),
        );
        let error = error(&values(got), &want);
        assert!(error < 1e-3, "{rows}x{inner}x{columns}: {error:e}");
    }
}

#[test]
fn selection_takes_the_first_of_equal_scores_in_ascending_order() {
    let _guard = ONE_AT_A_TIME.lock();
    let device = Default::default();
    let scores: Vec<f32> = (0..2 * 700)
        .map(|i| ((i * 37 % 11) as f32 - 5.0) * 0.5)
        .collect();
    for top in [1, 13, 64, 699, 700] {
        let rule = BlockRule { top, cdf: None };
        let tensor =
            Tensor::<Wgpu, 4>::from_data(TensorData::new(scores.clone(), [1, 1, 2, 700]), &device);
        let (indices, counts) = Wgpu::select_blocks(raw(tensor), rule);
        let ints = |x| {
            Tensor::<Wgpu, 1, burn::tensor::Int>::from_primitive(x)
                .into_data()
                .to_vec::<i32>()
                .unwrap()
        };
        assert_eq!(ints(counts), [top as i32; 2]);
        let mut want = Vec::new();
        for row in scores.chunks(700) {
            let mut order: Vec<i32> = (0..700).collect();
            order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
            order.truncate(top);
            order.sort_unstable();
            want.extend(order);
        }
        assert_eq!(ints(indices), want, "top {top}");
    }
}
