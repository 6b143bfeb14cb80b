//! Parity with the official PyTorch code on every compiled backend.
#![allow(missing_docs)]

use std::collections::BTreeSet;

use longcat_tests::{GROUPS, Golden};

/// One test per group of kinds on one backend.
macro_rules! parity {
    ($module:ident, $backend:ty, $device:expr) => {
        mod $module {
            use burn::tensor::DType;
            use longcat_tests::{GROUPS, run_kinds};

            fn run(group: &str) {
                let (_, kinds) = GROUPS.iter().find(|(name, _)| *name == group).unwrap();
                run_kinds::<$backend>(kinds, &$device, DType::F32, None);
            }

            #[test]
            fn text() {
                run("text");
            }

            #[test]
            fn vae() {
                run("vae");
            }

            #[test]
            fn transformer() {
                run("transformer");
            }

            #[test]
            fn attention() {
                run("attention");
            }

            #[test]
            fn lora() {
                run("lora");
            }

            #[test]
            fn training() {
                run("training");
            }

            #[test]
            fn scheduler() {
                run("scheduler");
            }

            #[test]
            fn pipelines() {
                run("pipelines");
            }
        }
    };
}

#[cfg(feature = "cpu")]
parity!(cpu, burn_flex::Flex, burn_flex::FlexDevice);

#[cfg(feature = "wgpu")]
parity!(wgpu, burn_wgpu::Wgpu, burn_wgpu::WgpuDevice::default());

#[cfg(feature = "cuda")]
parity!(cuda, burn_cuda::Cuda, burn_cuda::CudaDevice::default());

/// bf16 keeps 8 bits of mantissa: the transformer stays within 3e-2 of the fp32 reference.
#[cfg(feature = "cuda")]
#[test]
fn cuda_transformer_in_bf16() {
    let kinds = [
        "dit_forward",
        "dit_kv_cache",
        "lora_forward",
        "lora_formats",
    ];
    longcat_tests::run_kinds::<burn_cuda::Cuda>(
        &kinds,
        &burn_cuda::CudaDevice::default(),
        burn::tensor::DType::BF16,
        Some(3e-2),
    );
}

#[test]
fn every_kind_of_the_manifest_is_known() {
    let known: BTreeSet<&str> = GROUPS
        .iter()
        .flat_map(|(_, kinds)| kinds.iter().copied())
        .collect();
    for case in Golden::open().cases() {
        assert!(
            known.contains(case.kind.as_str()),
            "{}: unknown kind {}",
            case.id,
            case.kind
        );
    }
}
