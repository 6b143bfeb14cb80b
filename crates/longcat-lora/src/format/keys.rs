//! Keys of adapter files taken apart: module, part of the adapter, or another kind of adapter.

use std::sync::LazyLock;

use regex::Regex;

use crate::error::UnsupportedKind;

/// What a tensor is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
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
}

/// A key taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key<'a> {
    /// A part of a LoRA layer. `bare`: a factor spelled without `.weight`.
    Lora {
        module: &'a str,
        role: Role,
        bare: bool,
    },
    /// A tensor of an adapter kind that is not supported.
    Unsupported(UnsupportedKind),
    /// Anything else.
    Unknown,
}

/// Endings that mark other kinds of adapters, ahead of everything else: a DoRA file also holds
/// ordinary factors.
const UNSUPPORTED: [(&str, UnsupportedKind); 4] = [
    (
        r"\.(?:dora_scale|lora_magnitude_vector(?:\..+)?)$",
        UnsupportedKind::Dora,
    ),
    (r"\.hada_[wt][12](?:_[ab])?$", UnsupportedKind::Loha),
    (r"\.lokr_(?:w[12](?:_[ab])?|t2)$", UnsupportedKind::Lokr),
    (r"\.diff(?:_b)?$", UnsupportedKind::Diff),
];

/// Endings of factors and scales, of all formats. The first group, where present, is the part.
const ROLES: [(&str, Role); 5] = [
    (
        r"\.(?:lora_down\.weight|lora_A(?:\.[^.]+)?\.weight|lora_A)$",
        Role::Down,
    ),
    (
        r"\.lora_up\.blocks\.([0-9]{1,3})\.weight$",
        Role::UpBlock(0),
    ),
    (
        r"\.(?:lora_up\.weight|lora_B(?:\.[^.]+)?\.weight|lora_B)$",
        Role::Up,
    ),
    (r"\.alpha_scale$", Role::AlphaScale),
    (r"\.(?:lora_)?alpha$", Role::Alpha),
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
        let part = captures.get(1).and_then(|m| m.as_str().parse().ok());
        return Key::Lora {
            module: &key[..ending],
            role: match (role, part) {
                (Role::UpBlock(_), Some(part)) => Role::UpBlock(part),
                _ => *role,
            },
            bare: matches!(role, Role::Down | Role::Up) && !key.ends_with(".weight")
                || key.ends_with(".lora_alpha"),
        };
    }
    Key::Unknown
}
