//! Parity with the official PyTorch code on every compiled backend.
#![allow(missing_docs)]

use std::collections::BTreeSet;

use longcat_tests::{GROUPS, Golden};

/// One test per group of kinds on one backend, of all groups unless some are named.
macro_rules! parity {
    ($module:ident, $backend:ty, $device:expr) => {
        parity!(
            $module,
            $backend,
            $device,
            [
                text: All,
                vae: All,
                transformer: All,
                attention: All,
                lora: All,
                training: All,
                scheduler: All,
                pipelines: All
            ]
        );
    };
    ($module:ident, $backend:ty, $device:expr, [$($group:ident: $cases:ident),*]) => {
        mod $module {
            use longcat_tests::{Cases, run_group};

            $(
                #[test]
                fn $group() {
                    run_group::<$backend>(stringify!($group), &$device, Cases::$cases);
                }
            )*
        }
    };
}

#[cfg(feature = "cpu")]
parity!(cpu, burn_flex::Flex, burn_flex::FlexDevice);

// Tests of kernels run the cases of attention on wgpu. Of a kind of pipeline the cases differ in what the host does,
// which those on the CPU show; its operations are those of the other groups.
#[cfg(feature = "wgpu")]
parity!(
    wgpu,
    burn_wgpu::Wgpu,
    burn_wgpu::WgpuDevice::default(),
    [
        text: All,
        vae: All,
        transformer: All,
        lora: All,
        training: All,
        scheduler: All,
        pipelines: FirstOfKind
    ]
);

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
        longcat_tests::Cases::All,
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
