//! Random shapes against naive references.

use burn::tensor::{DType, Tensor, backend::Backend};
use burn_autodiff::{Autodiff, checkpoint::strategy::BalancedCheckpointing};
use burn_backend::tensor::FloatTensor;
use burn_flex::Flex;
use longcat_kernels::{
    BlockList, BsaParams, EmptySelection, KernelBackend, attention_with_lse, bsa, linear, portable,
};
use proptest::{collection, option, prelude::*, sample};

use crate::support::{
    head_rows, naive_attention, naive_selection, norm, normal, relative_error, token_mask,
};

type Ad = Autodiff<Flex>;
type Float = FloatTensor<Flex>;
type AttentionBackward = fn(
    Float,
    Float,
    Float,
    Float,
    Float,
    Float,
    Option<BlockList<Flex>>,
    f64,
) -> (Float, Float, Float);
const TOLERANCE: f64 = 2e-5;

fn leaf<const D: usize>(shape: [usize; D]) -> Tensor<Ad, D> {
    normal::<Ad, D>(shape, &Default::default()).require_grad()
}

fn assert_close<B: Backend, const D: usize>(what: &str, x: Tensor<B, D>, expected: Tensor<B, D>) {
    let error = relative_error(x, expected);
    assert!(error <= TOLERANCE, "{what}: relative error {error:e}");
}

/// Compares the gradients of two functions of the same queries, keys and values.
///
/// The gradient through a softmax of one key (or one listed key) is zero, a difference of equal terms
/// of which rounding is left, some 2e-7 of the largest gradient; such a gradient must be rounding
/// here, too. Others are measured against a hundredth of the largest at least.
fn assert_same_gradients(leaves: [&Tensor<Ad, 4>; 3], out: Tensor<Ad, 4>, expected: Tensor<Ad, 4>) {
    const ROUNDING: f64 = 1e-6;
    let weights = normal::<Ad, 4>(out.dims(), &Default::default());
    let got = (out * weights.clone()).sum().backward();
    let want = (expected * weights).sum().backward();
    let largest = leaves
        .iter()
        .map(|leaf| norm(leaf.grad(&want).unwrap()))
        .fold(0.0, f64::max);
    for (at, leaf) in leaves.into_iter().enumerate() {
        let (got, want) = (leaf.grad(&got).unwrap(), leaf.grad(&want).unwrap());
        if norm(want.clone()) <= ROUNDING * largest {
            let size = norm(got);
            assert!(
                size <= 2.0 * ROUNDING * largest,
                "gradient {at} is zero, not {size:e}"
            );
            continue;
        }
        let error = norm(got - want.clone()) / norm(want).max(0.01 * largest);
        assert!(
            error <= TOLERANCE,
            "gradient {at}: relative error {error:e}"
        );
    }
}

prop_compose! {
    fn bsa_case()(
        chunk_q in collection::vec(1usize..4, 3),
        chunk_k in collection::vec(1usize..4, 3),
        grid in collection::vec(1usize..7, 3),
        frames_k in 1usize..7,
        sparsity in option::of(0.0f64..1.0),
        cdf_threshold in option::of(0.05f64..0.95),
        keep_best in any::<bool>(),
        heads in 1usize..3,
        batch in 1usize..3,
        dim in sample::select(vec![4usize, 8, 16]),
    ) -> ([usize; 3], [usize; 3], BsaParams, [usize; 3]) {
        let array = |x: Vec<usize>| -> [usize; 3] { x.try_into().unwrap() };
        let grid_q = array(grid);
        let params = BsaParams {
            sparsity,
            cdf_threshold,
            chunk_3d_shape_q: array(chunk_q),
            chunk_3d_shape_k: array(chunk_k),
            empty_selection: if keep_best { EmptySelection::KeepBest } else { EmptySelection::Zero },
        };
        (grid_q, [frames_k, grid_q[1], grid_q[2]], params, [batch, heads, dim])
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn block_sparse_attention_is_masked_attention((grid_q, grid_k, params, [b, h, d]) in bsa_case()) {
        let [nq, nk] = [grid_q, grid_k].map(|grid| grid.iter().product::<usize>());
        let (q, k, v) = (leaf([b, h, nq, d]), leaf([b, h, nk, d]), leaf([b, h, nk, d]));
        let choices: Vec<_> = (0..b * h)
            .map(|at| {
                let rows = |x| head_rows(x, at / h, at % h);
                naive_selection(&rows(&q), &rows(&k), grid_q, grid_k, &params)
            })
            .collect();

        let mask = bsa::block_mask(q.clone(), k.clone(), grid_q, grid_k, &params);
        let got: Vec<bool> = mask.into_data().iter::<bool>().collect();
        let want: Vec<bool> = choices.iter().flatten().flatten().copied().collect();
        prop_assert_eq!(got, want);

        let (out, lse) = bsa::bsa_attention_with_lse(
            q.clone(), k.clone(), v.clone(), grid_q, grid_k, &params,
        );
        let mask = token_mask::<Ad>(&choices, [b, h], grid_q, grid_k, &params, &q.device());
        // A query that sees nothing has an output of zero, where a naive softmax has an average.
        let sees = mask.clone().int().sum_dim(3).greater_elem(0);
        let (naive, naive_lse) = naive_attention(
            q.clone(), k.clone(), v.clone(), Some(mask), (d as f64).powf(-0.5),
        );
        let blind = sees.bool_not();
        let naive = naive.mask_fill(blind.clone().expand([b, h, nq, d]), 0.0);
        assert_close("output", out.clone(), naive.clone());
        let blind = blind.squeeze_dim::<3>(3);
        let unseen = lse.clone().is_inf();
        prop_assert_eq!(unseen.to_data(), blind.to_data());
        let clean = |x: Tensor<Ad, 3>| x.mask_fill(blind.clone(), 0.0);
        assert_close("log-sum-exp", clean(lse), clean(naive_lse));
        assert_same_gradients([&q, &k, &v], out, naive);
    }

    #[test]
    fn dense_attention_is_softmax(
        b in 1usize..3, h in 1usize..4, nq in 1usize..150, nk in 1usize..300,
        d in sample::select(vec![1usize, 4, 16, 33, 64]), scale in 0.01f64..2.0,
    ) {
        let (q, k, v) = (leaf([b, h, nq, d]), leaf([b, h, nk, d]), leaf([b, h, nk, d]));
        // The reference must not overflow without the maximum that it does not subtract.
        let scale = scale / (d as f64).sqrt();
        let (out, lse) = attention_with_lse(q.clone(), k.clone(), v.clone(), scale);
        let (naive, naive_lse) = naive_attention(q.clone(), k.clone(), v.clone(), None, scale);
        assert_close("output", out.clone(), naive.clone());
        assert_close("log-sum-exp", lse, naive_lse);
        assert_same_gradients([&q, &k, &v], out, naive);
    }

    #[test]
    fn cpu_attention_is_the_portable_one(
        h in 1usize..4, nq in 1usize..150, nk in 1usize..700, d in 1usize..80,
    ) {
        let device = Default::default();
        let [q, k, v] = [nq, nk, nk].map(|n| normal::<Flex, 4>([1, h, n, d], &device));
        let primitive = |x: &Tensor<Flex, 4>| x.clone().into_primitive().tensor();
        let (out, lse) = portable::attention_forward::<Flex>(
            primitive(&q), primitive(&k), primitive(&v), None, 0.3,
        );
        let float = burn::tensor::TensorPrimitive::Float;
        let (got, got_lse) = attention_with_lse(q.clone(), k.clone(), v.clone(), 0.3);
        assert_close("output", got, Tensor::from_primitive(float(out.clone())));
        assert_close("log-sum-exp", got_lse, Tensor::from_primitive(float(lse.clone())));

        let d_out = normal::<Flex, 4>([1, h, nq, d], &device);
        let backward = |of: AttentionBackward| {
            let [q, k, v, d_out] = [&q, &k, &v, &d_out].map(primitive);
            let (dq, dk, dv) = of(q, k, v, out.clone(), lse.clone(), d_out, None, 0.3);
            [dq, dk, dv].map(|x| Tensor::<Flex, 4>::from_primitive(float(x)))
        };
        let got = backward(Flex::attention_backward);
        let want = backward(portable::attention_backward::<Flex>);
        // With few keys some gradients are zero but for rounding.
        let largest = want.iter().map(|x| norm(x.clone())).fold(0.0, f64::max);
        for (name, (got, want)) in ["dq", "dk", "dv"].into_iter().zip(got.into_iter().zip(want)) {
            let error = norm(got - want) / largest;
            assert!(error <= TOLERANCE, "{name}: {error:e} of the largest gradient");
        }
    }

    #[test]
    fn linear_is_a_product(
        lead in 1usize..4, rows in 1usize..9, d_in in 1usize..20, d_out in 1usize..20,
        with_bias in any::<bool>(),
    ) {
        let x = leaf([lead, 2, rows, d_in]);
        let weight = leaf([d_out, d_in]);
        let bias = with_bias.then(|| leaf([d_out]));
        let got = linear(x.clone(), weight.clone(), bias.clone());
        let mut want = x.clone().matmul(weight.clone().transpose().unsqueeze());
        if let Some(bias) = &bias {
            want = want + bias.clone().unsqueeze();
        }
        assert_close("output", got.clone(), want.clone());
        let weights = normal::<Ad, 4>(got.dims(), &x.device());
        let got = (got * weights.clone()).sum().backward();
        let want = (want * weights).sum().backward();
        assert_close("dx", x.grad(&got).unwrap(), x.grad(&want).unwrap());
        assert_close("dw", weight.grad(&got).unwrap(), weight.grad(&want).unwrap());
        if let Some(bias) = bias {
            assert_close("db", bias.grad(&got).unwrap(), bias.grad(&want).unwrap());
        }
    }
}

#[test]
fn only_tracked_inputs_of_linear_get_gradients() {
    let device = Default::default();
    let (x, weight) = (leaf([2, 5]), normal::<Ad, 2>([3, 5], &device));
    let grads = linear(x.clone(), weight.clone(), None).sum().backward();
    assert!(x.grad(&grads).is_some() && weight.grad(&grads).is_none());

    let (x, weight, bias) = (normal::<Ad, 2>([2, 5], &device), leaf([3, 5]), leaf([3]));
    let grads = linear(x.clone(), weight.clone(), Some(bias.clone()))
        .sum()
        .backward();
    assert!(x.grad(&grads).is_none() && weight.grad(&grads).is_some());
    assert_eq!(
        bias.grad(&grads)
            .unwrap()
            .to_data()
            .iter::<f32>()
            .collect::<Vec<_>>(),
        [2.0; 3]
    );

    let frozen = linear(x, weight.detach(), None);
    assert!(!frozen.is_require_grad());
}

#[test]
fn checkpointing_recomputes_the_same_gradients() {
    type Cp = Autodiff<Flex, BalancedCheckpointing>;
    let device = Default::default();
    let base = normal::<Flex, 4>([1, 2, 12, 8], &device);
    let weight = normal::<Flex, 2>([8, 8], &device);
    // Element-wise parents, which that strategy recomputes instead of keeping.
    fn gradients<B: longcat_kernels::KernelBackend + burn::tensor::backend::AutodiffBackend>(
        base: Tensor<B, 4>,
        weight: Tensor<B, 2>,
    ) -> [Tensor<B::InnerBackend, 4>; 1] {
        let base = base.require_grad();
        let q = linear(base.clone().sin() * 2.0, weight.exp(), None);
        let (out, _) = attention_with_lse(q.clone().tanh(), q.cos(), base.clone().exp(), 0.5);
        let grads = out.powi_scalar(2).sum().backward();
        [base.grad(&grads).unwrap()]
    }
    let plain = gradients::<Ad>(
        Tensor::from_inner(base.clone()),
        Tensor::from_inner(weight.clone()),
    );
    let saved = gradients::<Cp>(Tensor::from_inner(base), Tensor::from_inner(weight));
    for (saved, plain) in saved.into_iter().zip(plain) {
        assert_close("gradient", saved, plain);
    }
}

#[test]
fn half_precision_is_accumulated_in_single() {
    let device = Default::default();
    let [q, k, v] = [(); 3].map(|()| normal::<Flex, 4>([1, 2, 64, 32], &device));
    for dtype in [DType::F16, DType::BF16] {
        // What the halves hold, computed in f32, differs only by the rounding of the output.
        let halves = [&q, &k, &v].map(|x| x.clone().cast(dtype));
        let [q, k, v] = halves.clone().map(|x| x.cast(DType::F32));
        let (want, want_lse) = attention_with_lse(q, k, v, 0.2);
        let [q, k, v] = halves;
        let (out, lse) = attention_with_lse(q, k, v, 0.2);
        assert_eq!((out.dtype(), lse.dtype()), (dtype, DType::F32));
        assert_close("log-sum-exp", lse, want_lse);
        assert!(relative_error(out.cast(DType::F32), want) < 4e-3);
    }
}

#[test]
fn equal_scores_keep_exactly_the_count() {
    let device = Default::default();
    let zeros = Tensor::<Flex, 4>::zeros([1, 1, 64, 4], &device);
    let params = BsaParams {
        sparsity: Some(0.5),
        cdf_threshold: None,
        chunk_3d_shape_q: [2, 2, 2],
        chunk_3d_shape_k: [2, 2, 2],
        empty_selection: EmptySelection::KeepBest,
    };
    for shift in [0.0, 1.0, -3e4] {
        let q = zeros.clone() + shift;
        let mask = bsa::block_mask(q.clone(), q.abs(), [4, 4, 4], [4, 4, 4], &params);
        let kept: Vec<bool> = mask.into_data().iter::<bool>().collect();
        for row in kept.chunks(8) {
            assert_eq!(row, [true, true, true, true, false, false, false, false]);
        }
    }
}
