//! Prefixes that programs put before layer names, and wrappers that get in between.

use std::sync::LazyLock;

use regex::Regex;

use super::Format;

/// Prefixes by which a format is recognised, ahead of the wrappers: the outermost counts.
const PREFIXES: [(Format, &str); 5] = [
    (Format::Official, r"^lora___lorahyphen___"),
    (Format::Peft, r"^base_model\.model\."),
    (Format::Diffusers, r"^transformer\."),
    (Format::ComfyUi, r"^diffusion_model\."),
    // Flattened names hold no dot: a dotted module of that name is another model's.
    (Format::Kohya, r"^(?:lora_unet|lora_transformer|lycoris)_+"),
];

/// Wrappers before and inside dotted names: torch.compile, data parallelism, sharding, activation
/// checkpointing, a pipeline's attribute.
const WRAPPERS: [(&str, &str); 2] = [
    (r"^(?:model|pipe|dit|net)\.", ""),
    (
        r"(^|\.)(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.",
        "${1}",
    ),
];

/// The same in flattened names.
const FLAT_WRAPPERS: [(&str, &str); 2] = [
    (
        r"^_*(?:orig_mod|module|model|diffusion_model|transformer|base_model|pipe|dit)_+",
        "",
    ),
    (
        r"_(?:_orig_mod|__fsdp_wrapped_module|__checkpoint_wrapped_module)_",
        "_",
    ),
];

const HYPHEN: (&str, &str) = ("___lorahyphen___", ".");

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|e| panic!("invalid pattern {pattern:?}: {e}"))
}

static COMPILED: LazyLock<[(Format, Regex); 5]> =
    LazyLock::new(|| PREFIXES.map(|(format, pattern)| (format, regex(pattern))));
static DOTTED: LazyLock<[(Regex, &str); 2]> =
    LazyLock::new(|| WRAPPERS.map(|(pattern, to)| (regex(pattern), to)));
static FLAT: LazyLock<[(Regex, &str); 2]> =
    LazyLock::new(|| FLAT_WRAPPERS.map(|(pattern, to)| (regex(pattern), to)));

/// A key's module without what is around the model's own name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bare {
    /// The format of the outermost prefix that has one.
    pub(super) format: Option<Format>,
    /// The name as the model spells it; flattened for kohya.
    pub(super) name: String,
    /// The name as PEFT saw it: what its patterns are matched against.
    pub(super) spelled: String,
    /// Whether PEFT wrapped the model, whose settings then may lie beside the file.
    pub(super) peft: bool,
}

/// Takes prefixes and wrappers off, in any order.
pub(super) fn strip(module: &str) -> Bare {
    let mut bare = Bare {
        format: None,
        name: module.to_string(),
        spelled: module.to_string(),
        peft: false,
    };
    loop {
        let found = COMPILED.iter().find_map(|(format, prefix)| {
            let rest = prefix.replace(&bare.name, "");
            let flat = *format == Format::Kohya;
            let other = flat && (rest.contains('.') || bare.format.is_some());
            (rest != bare.name && !other).then(|| (*format, rest.into_owned()))
        });
        if let Some((format, rest)) = found {
            if bare.format.is_none() || format == Format::Peft {
                bare.spelled.clone_from(&rest);
            }
            bare.peft |= format == Format::Peft;
            bare.format.get_or_insert(format);
            bare.name = rest;
            match format {
                Format::Official => {
                    bare.name = bare.name.replace(HYPHEN.0, HYPHEN.1);
                    return bare;
                }
                Format::Kohya => return bare,
                _ => continue,
            }
        }
        let unwrapped = apply(DOTTED.as_slice(), &bare.name);
        if unwrapped == bare.name {
            return bare;
        }
        bare.name = unwrapped;
    }
}

/// A flattened name without wrappers; the same where there are none.
pub(super) fn unwrap_flat(name: &str) -> String {
    let mut name = name.to_string();
    loop {
        let next = apply(FLAT.as_slice(), &name);
        if next == name {
            return name;
        }
        name = next;
    }
}

fn apply(rules: &[(Regex, &str)], name: &str) -> String {
    rules.iter().fold(name.to_string(), |name, (regex, to)| {
        regex.replace(&name, *to).into_owned()
    })
}

/// The rules that a format's names go through.
pub(super) fn rules(format: Format) -> Vec<(&'static str, &'static str)> {
    let own = |f: Format| PREFIXES.into_iter().filter(move |(g, _)| *g == f);
    let mut rules: Vec<_> = own(format).map(|(_, pattern)| (pattern, "")).collect();
    match format {
        Format::Official => rules.push(HYPHEN),
        Format::Kohya => rules.extend(FLAT_WRAPPERS),
        _ => {
            let dotted = [Format::Peft, Format::Diffusers, Format::ComfyUi];
            let others = dotted.into_iter().filter(|f| *f != format).flat_map(own);
            rules.extend(others.map(|(_, pattern)| (pattern, "")));
            rules.extend(WRAPPERS);
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_wrappers_come_off_in_any_order() {
        let cases = [
            ("blocks.0.ffn.w1", None),
            ("pipe.dit.blocks.0.ffn.w1", None),
            ("module._orig_mod.blocks.0.ffn.w1", None),
            ("blocks.0._orig_mod.ffn.w1", None),
            (
                "model.diffusion_model.blocks.0.ffn.w1",
                Some(Format::ComfyUi),
            ),
            (
                "transformer.base_model.model.blocks.0.ffn.w1",
                Some(Format::Diffusers),
            ),
            (
                "_orig_mod.transformer.module.blocks.0.ffn.w1",
                Some(Format::Diffusers),
            ),
            ("base_model.model.model.blocks.0.ffn.w1", Some(Format::Peft)),
        ];
        for (module, format) in cases {
            let bare = strip(module);
            assert_eq!(
                (bare.name.as_str(), bare.format),
                ("blocks.0.ffn.w1", format)
            );
        }
        for flat in ["lora_unet_", "lora_unet__", "lycoris_", "lora_transformer_"] {
            let bare = strip(&format!("{flat}blocks_0_ffn_w1"));
            assert_eq!(bare.name, "blocks_0_ffn_w1");
            assert_eq!(bare.format, Some(Format::Kohya));
        }
        for flat in [
            "_orig_mod_blocks_0_ffn_w1",
            "model_blocks_0__orig_mod_ffn_w1",
        ] {
            assert_eq!(unwrap_flat(flat), "blocks_0_ffn_w1");
        }
        assert_eq!(strip("lora_unet.blocks.0").format, None);
        assert_eq!(strip("lora_te_encoder_block_0").format, None);
    }

    #[test]
    fn the_name_that_peft_saw_keeps_its_wrappers() {
        let bare = strip("base_model.model.transformer.blocks.0.ffn.w1");
        assert_eq!(bare.spelled, "transformer.blocks.0.ffn.w1");
        assert!(bare.peft);
        let bare = strip("transformer.base_model.model.blocks.0.ffn.w1");
        assert_eq!(bare.spelled, "blocks.0.ffn.w1");
    }
}
