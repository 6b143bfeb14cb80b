//! Names: the official module paths are canonical; two tables lead to the module tree and back.

use longcat_weights::NameMap;

/// Official keys to paths in the module tree.
const CANONICAL: &[(&str, &str)] = &[
    (r"\.resample\.1\.", ".resample."),
    (
        r"^encoder\.down_blocks\.(\d+)\.(resample|time_conv)\.",
        "encoder.down_blocks.${1}.Downsample.${2}.",
    ),
    (
        r"^encoder\.down_blocks\.(\d+)\.(conv|norm)",
        "encoder.down_blocks.${1}.Residual.${2}",
    ),
];

/// Paths in the module tree to official keys, the inverse of [`CANONICAL`].
const INTERNAL: &[(&str, &str)] = &[
    (r"\.(Residual|Downsample)\.", "."),
    (r"\.resample\.", ".resample.1."),
];

/// Official keys (`encoder.down_blocks.0.conv1.weight`) to paths in the module tree.
pub fn canonical_names() -> NameMap {
    NameMap::new(CANONICAL)
}

/// Paths in the module tree to official keys.
pub fn internal_names() -> NameMap {
    NameMap::new(INTERNAL)
}
