//! Naming schemes: ordered tables of regular expressions.

mod kijai;

use regex::Regex;

pub use kijai::KIJAI_LAYERS;

/// An ordered table of regex rules that turns one naming scheme into another.
///
/// Every rule is tried in order on the result of the ones before it; a rule replaces its first
/// match. Keys that no rule matches keep their name, so an empty table is the identity.
#[derive(Debug, Clone, Default)]
pub struct NameMap {
    rules: Vec<(Regex, String)>,
}

impl NameMap {
    /// Builds a table from `(pattern, replacement)` pairs (`regex` crate syntax, `${1}` groups).
    ///
    /// # Panics
    /// If a pattern is not a valid regular expression: tables are data of the program.
    pub fn new(rules: &[(&str, &str)]) -> Self {
        let rules = rules
            .iter()
            .map(|(pattern, replacement)| match Regex::new(pattern) {
                Ok(regex) => (regex, (*replacement).to_string()),
                Err(error) => panic!("invalid pattern {pattern:?} in a name map: {error}"),
            })
            .collect();
        Self { rules }
    }

    /// Builds a table from whole layer names `(theirs, ours)` such as [`KIJAI_LAYERS`]: `{i}` is a
    /// number, and the tensor's own name follows the layer's (`.weight`). Part j of a fused layer,
    /// `layer#j`, becomes `layer.weight#j`, which [`crate::WeightFiles::renamed`] puts together.
    ///
    /// # Panics
    /// If a row makes no valid pattern: tables are data of the program.
    pub fn of_layers(rows: &[(&str, &str)]) -> Self {
        let rules = rows.iter().map(|(theirs, ours)| {
            let numbers = theirs.matches("{i}").count();
            let pattern = regex::escape(theirs).replace(r"\{i\}", "([0-9]+)");
            let (layer, part) = match ours.split_once('#') {
                Some((layer, part)) => (layer, format!("#{part}")),
                None => (*ours, String::new()),
            };
            let mut replacement = layer.to_string();
            for group in 1..=numbers {
                replacement = replacement.replacen("{i}", &format!("${{{group}}}"), 1);
            }
            let rest = numbers + 1;
            let pattern = format!(r"^{pattern}\.([^.]+)$");
            (pattern, format!("{replacement}.${{{rest}}}{part}"))
        });
        let rules: Vec<(String, String)> = rules.collect();
        let rules: Vec<(&str, &str)> = rules
            .iter()
            .map(|(from, to)| (from.as_str(), to.as_str()))
            .collect();
        Self::new(&rules)
    }

    /// The name of `key` in the target scheme.
    pub fn map(&self, key: &str) -> String {
        self.rules
            .iter()
            .fold(key.to_string(), |name, (regex, replacement)| {
                regex.replace(&name, replacement.as_str()).into_owned()
            })
    }

    /// The rules as text, in order.
    pub fn rules(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rules
            .iter()
            .map(|(regex, replacement)| (regex.as_str(), replacement.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layers_keep_the_tensor_and_mark_parts() {
        let names = NameMap::of_layers(KIJAI_LAYERS);
        let expected = [
            ("patch_embedding.bias", "x_embedder.proj.bias"),
            (
                "blocks.12.self_attn.k.weight",
                "blocks.12.attn.qkv.weight#1",
            ),
            (
                "blocks.0.cross_attn.v.bias",
                "blocks.0.cross_attn.kv_linear.bias#1",
            ),
            ("blocks.3.norm3.weight", "blocks.3.pre_crs_attn_norm.weight"),
            ("blocks.3.ffn.w2.weight", "blocks.3.ffn.w2.weight"),
            ("head.head.scale_weight", "final_layer.linear.scale_weight"),
        ];
        for (theirs, ours) in expected {
            assert_eq!(names.map(theirs), ours);
        }
    }
}
