//! Keys of adapter files taken apart: module, part of the adapter, or another kind of adapter.

use std::sync::LazyLock;

use regex::Regex;

use crate::error::UnsupportedKind;

/// What a tensor is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    /// `[Σ rank, d_in]`.
    Down,
    /// `[d_out, rank]`.
    Up,
    /// `[d_out / n, rank]` of part j.
    UpBlock(usize),
    /// Alpha over rank, already divided.
    AlphaScale,
    /// Alpha, to be divided by the rank.
    Alpha,
    /// Norms of a DoRA layer.
    Magnitude,
    /// Difference of the weight.
    Diff,
    /// Difference of the bias.
    DiffBias,
    /// LoHa: `(w1_a · w1_b) ∘ (w2_a · w2_b)`.
    HadamardA(usize),
    HadamardB(usize),
    /// LoKr: whole `w1` and `w2`, or `w_a · w_b` in their place.
    Kronecker(usize),
    KroneckerA(usize),
    KroneckerB(usize),
}

impl Role {
    /// Whether the tensor alone shows that the file is an adapter with products of factors.
    pub(super) fn is_low_rank(self) -> bool {
        matches!(self, Self::Down | Self::Up | Self::UpBlock(_))
    }
}

/// A key taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key<'a> {
    /// A part of an adapter's layer. `bare`: a factor spelled without `.weight`.
    Part {
        module: &'a str,
        role: Role,
        bare: bool,
    },
    /// A tensor of an adapter kind that is not supported.
    Unsupported(UnsupportedKind),
    /// Anything else.
    Unknown,
}

/// Endings that mark other kinds of adapters, ahead of everything else.
const UNSUPPORTED: [(&str, UnsupportedKind); 9] = [
    (r"\.hada_t[12]$", UnsupportedKind::Loha),
    (r"\.lokr_t2$", UnsupportedKind::Lokr),
    (r"\.lora_mid\.weight$", UnsupportedKind::Tucker),
    (r"\.[ab][12]\.weight$", UnsupportedKind::Glora),
    (r"\.(?:oft|boft)_[a-zA-Z]+(?:\..+)?$", UnsupportedKind::Oft),
    (r"\.(?:on_input|ia3_l(?:\..+)?)$", UnsupportedKind::Ia3),
    (r"\.[wb]_norm$", UnsupportedKind::LycorisNorm),
    (r"\.(?:lora_E|ranknum)(?:\..+)?$", UnsupportedKind::AdaLora),
    (r"\.vera_lambda_[bd](?:\..+)?$", UnsupportedKind::Vera),
];

/// Endings of the parts, of all formats. The first group, where present, is a number.
const ROLES: [(&str, Role); 13] = [
    (
        r"(?:\.lora_down\.weight|\.lora_A(?:\.[^.]+)?\.weight|\.lora_A|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight)$",
        Role::Down,
    ),
    (
        r"\.lora_up\.blocks\.([0-9]{1,3})\.weight$",
        Role::UpBlock(0),
    ),
    (
        r"(?:\.lora_up\.weight|\.lora_B(?:\.[^.]+)?\.weight|\.lora_B|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight)$",
        Role::Up,
    ),
    (r"\.alpha_scale$", Role::AlphaScale),
    (r"\.(?:lora_)?alpha$", Role::Alpha),
    (
        r"\.(?:dora_scale|lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?)$",
        Role::Magnitude,
    ),
    (r"\.diff$", Role::Diff),
    (r"\.diff_b$", Role::DiffBias),
    (r"\.hada_w([12])_a(?:\.[^.]+)?$", Role::HadamardA(0)),
    (r"\.hada_w([12])_b(?:\.[^.]+)?$", Role::HadamardB(0)),
    (r"\.lokr_w([12])(?:\.[^.]+)?$", Role::Kronecker(0)),
    (r"\.lokr_w([12])_a(?:\.[^.]+)?$", Role::KroneckerA(0)),
    (r"\.lokr_w([12])_b(?:\.[^.]+)?$", Role::KroneckerB(0)),
];

fn compile<T: Copy>(table: &[(&str, T)]) -> Vec<(Regex, T)> {
    table
        .iter()
        .map(|(pattern, value)| match Regex::new(pattern) {
            Ok(regex) => (regex, *value),
            Err(error) => panic!("invalid pattern {pattern:?}: {error}"),
        })
        .collect()
}

static UNSUPPORTED_KEYS: LazyLock<Vec<(Regex, UnsupportedKind)>> =
    LazyLock::new(|| compile(&UNSUPPORTED));
static ROLE_KEYS: LazyLock<Vec<(Regex, Role)>> = LazyLock::new(|| compile(&ROLES));

/// Takes a key apart by its ending.
pub(super) fn parse(key: &str) -> Key<'_> {
    if let Some((_, kind)) = UNSUPPORTED_KEYS.iter().find(|(r, _)| r.is_match(key)) {
        return Key::Unsupported(*kind);
    }
    for (regex, role) in ROLE_KEYS.iter() {
        let Some(captures) = regex.captures(key) else {
            continue;
        };
        let ending = captures.get(0).map_or(key.len(), |m| m.start());
        let number = captures.get(1).and_then(|m| m.as_str().parse().ok());
        let number = number.unwrap_or(0);
        let role = match role {
            Role::UpBlock(_) => Role::UpBlock(number),
            Role::HadamardA(_) => Role::HadamardA(number),
            Role::HadamardB(_) => Role::HadamardB(number),
            Role::Kronecker(_) => Role::Kronecker(number),
            Role::KroneckerA(_) => Role::KroneckerA(number),
            Role::KroneckerB(_) => Role::KroneckerB(number),
            other => *other,
        };
        return Key::Part {
            module: &key[..ending],
            role,
            bare: matches!(role, Role::Down | Role::Up) && !key.ends_with(".weight")
                || key.ends_with(".lora_alpha"),
        };
    }
    Key::Unknown
}
