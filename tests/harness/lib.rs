//! Parity with the official code, driven by a folder of golden cases.
//!
//! Every case of the manifest runs; a kind that the harness does not know fails. The folder is
//! `tests/golden`, or that of `LONGCAT_GOLDEN_DIR`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

// Generic code that the runtime has compiled is not compiled again here.
use longcat_runtime as _;

mod attention;
mod case;
mod dit;
mod grad;
mod lora;
mod pipelines;
mod scheduler;
mod text;
mod vae;
#[cfg(feature = "wgpu")]
mod wgpu_device;

use std::collections::BTreeSet;

use burn::tensor::DType;
use longcat_kernels::KernelBackend;

pub use case::{Case, Golden};
#[cfg(feature = "wgpu")]
pub use wgpu_device::own_wgpu_device;

/// Which cases of a kind run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cases {
    /// All of them.
    All,
    /// The first of each kind.
    FirstOfKind,
}

/// Runs the cases of one of the [`GROUPS`] in f32, as [`run_kinds`] does.
pub fn run_group<B: KernelBackend>(group: &str, device: &B::Device, cases: Cases) {
    let (_, kinds) = GROUPS.iter().find(|(name, _)| *name == group).unwrap();
    run_kinds::<B>(kinds, cases, device, DType::F32, None);
}

/// Runs cases of some kinds on a device and fails with a list of all differences.
///
/// `dtype` is that of the models' weights; `tolerance` replaces that of the cases where it is given
/// (lower precision than fp32 only).
pub fn run_kinds<B: KernelBackend>(
    kinds: &[&str],
    cases: Cases,
    device: &B::Device,
    dtype: DType,
    tolerance: Option<f64>,
) {
    let golden = Golden::open();
    let mut failures = Vec::new();
    let mut ran = BTreeSet::new();
    for mut case in golden
        .cases()
        .into_iter()
        .filter(|c| kinds.contains(&c.kind.as_str()))
    {
        if !ran.insert(case.kind.clone()) && cases == Cases::FirstOfKind {
            continue;
        }
        case.override_tolerance(tolerance);
        // Below fp32 the transformer rounds its timesteps, as the official one does. Where that
        // changes them, what is expected is the answer of the fp32 model (which the cases hold to
        // the official one) to the rounded timesteps.
        if dtype != DType::F32 && case.round_timesteps(dtype) {
            case.record(true);
            run_case::<B>(&golden, &mut case, device, DType::F32);
            case.record(false);
        }
        run_case::<B>(&golden, &mut case, device, dtype);
        println!("{}: {}", case.id, case.summary());
        failures.extend(case.failures());
    }
    assert!(
        !ran.is_empty(),
        "no case of the kinds {kinds:?} in {}",
        golden.root().display()
    );
    assert!(
        failures.is_empty(),
        "{} differences:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn run_case<B: KernelBackend>(golden: &Golden, case: &mut Case, device: &B::Device, dtype: DType) {
    match case.kind.as_str() {
        "prompt_clean" => text::prompt_clean(case),
        "tokenizer" => text::tokenizer(golden, case),
        "umt5" => text::umt5::<B>(golden, case, device),
        "vae_encode" => vae::encode::<B>(golden, case, device),
        "vae_decode" => vae::decode::<B>(golden, case, device),
        "dit_forward" => dit::forward::<B>(golden, case, device, dtype),
        "dit_kv_cache" => dit::kv_cache::<B>(golden, case, device, dtype),
        "bsa" => attention::bsa::<B>(case, device),
        "lora_forward" => lora::forward::<B>(golden, case, device, dtype),
        "lora_formats" => lora::formats::<B>(golden, case, device, dtype),
        "lora_merge" => lora::merge::<B>(golden, case, device),
        "lora_invalid" => lora::invalid::<B>(golden, case, device),
        "lora_grad" => grad::lora_grad::<B>(golden, case, device),
        "scheduler" => scheduler::run::<B>(golden, case, device),
        "t2v" => pipelines::text_to_video::<B>(golden, case, device),
        "i2v" => pipelines::image_to_video::<B>(golden, case, device),
        "continuation" => pipelines::continuation::<B>(golden, case, device),
        "refine" => pipelines::refine::<B>(golden, case, device),
        other => panic!("{}: unknown kind {other}", case.id),
    }
}

/// Kinds that [`run_kinds`] knows, in groups that one test runs.
pub const GROUPS: &[(&str, &[&str])] = &[
    ("text", &["prompt_clean", "tokenizer", "umt5"]),
    ("vae", &["vae_encode", "vae_decode"]),
    ("transformer", &["dit_forward", "dit_kv_cache"]),
    ("attention", &["bsa"]),
    (
        "lora",
        &["lora_forward", "lora_formats", "lora_merge", "lora_invalid"],
    ),
    ("training", &["lora_grad"]),
    ("scheduler", &["scheduler"]),
    ("pipelines", &["t2v", "i2v", "continuation", "refine"]),
];
