//! What a file's header and numbers say that its user should know.

use std::collections::BTreeMap;
use std::path::Path;

use super::keys::Role;
use super::scan::Source;
use crate::{LoraError, TargetTable};

/// Ranks at which the released adapters were made: their scale is not 1.
const RELEASED_RANK: usize = 128;

/// What a user should know before trusting an adapter, from its header alone: a scale that was
/// probably lost, a text encoder that is not this model's.
///
/// # Errors
/// What stops the file from being opened. One that cannot be loaded for its content is no error here.
pub fn adapter_warnings(path: &Path, table: &TargetTable) -> Result<Vec<String>, LoraError> {
    Ok(Source::open(path, table)?.warnings())
}

impl Source {
    pub(super) fn warnings(&self) -> Vec<String> {
        let downs = self.layers.values().filter_map(|l| l.key(Role::Down));
        let ranks = downs.filter_map(|key| self.files.info(key)?.shape.first().copied());
        warnings(ranks, self.has_scales(), self.files.metadata())
    }
}

/// `has_scales` says whether the file, its header or its settings give a scale.
fn warnings(
    ranks: impl Iterator<Item = usize>,
    has_scales: bool,
    metadata: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut ranks = ranks.peekable();
    if !has_scales && ranks.peek().is_some() && ranks.all(|rank| rank == RELEASED_RANK) {
        warnings.push(format!(
            "rank {RELEASED_RANK} and no alpha: the scale 1 is assumed, but converters are known to \
             have lost the scale 0.5 of the released adapters; if the effect is too strong, use half \
             the strength"
        ));
    }
    if trained_on_another_text_encoder(metadata) {
        warnings.push(
            "trained by SimpleTuner, which conditions LongCat-Video on Qwen2.5-VL and not on UMT5: \
             it loads, but does not act as it did in training"
                .into(),
        );
    }
    warnings
}

fn trained_on_another_text_encoder(metadata: &BTreeMap<String, String>) -> bool {
    metadata.iter().any(|(key, value)| {
        let text = format!("{key} {value}").to_lowercase();
        ["simpletuner", "qwen2.5-vl", "qwen2_5_vl", "qwen2.5vl"]
            .iter()
            .any(|word| text.contains(word))
    })
}
