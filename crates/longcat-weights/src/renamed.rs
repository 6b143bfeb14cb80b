//! Files under other names.

use std::collections::BTreeMap;

use crate::files::Entry;
use crate::{NameMap, WeightFiles, WeightsError};

impl WeightFiles {
    /// The same tensors under other names.
    ///
    /// Names that `names` turns into `key#0`, `key#1`, … become one tensor `key` with the rows of
    /// the parts one after another.
    ///
    /// # Errors
    /// [`WeightsError::BadIndex`] when two tensors get one name, or parts are missing or differ in
    /// the shape of their rows.
    pub fn renamed(&self, names: &NameMap) -> Result<Self, WeightsError> {
        let bad = |reason: String| WeightsError::BadIndex {
            path: self.path.clone(),
            reason,
        };
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        let mut split: BTreeMap<String, BTreeMap<usize, &Entry>> = BTreeMap::new();
        for (old, entry) in &self.entries {
            let name = names.map(old);
            let taken = match name.rsplit_once('#').map(|(n, j)| (n, j.parse::<usize>())) {
                Some((name, Ok(part))) => {
                    let parts = split.entry(name.to_string()).or_default();
                    parts.insert(part, entry).is_some()
                }
                _ => entries.insert(name.clone(), entry.clone()).is_some(),
            };
            if taken {
                return Err(bad(format!("two tensors are called {name}")));
            }
        }
        for (name, parts) in split {
            let count = parts.len();
            let mut fused: Option<Entry> = None;
            for (expected, (index, part)) in parts.into_iter().enumerate() {
                let fits = fused
                    .as_ref()
                    .is_none_or(|f| f.shape.get(1..) == part.shape.get(1..));
                if index != expected || !fits || part.shape.is_empty() {
                    return Err(bad(format!(
                        "part {expected} of {name} is missing or differs in the shape of its rows \
                         ({count} parts found)"
                    )));
                }
                match &mut fused {
                    None => fused = Some(part.clone()),
                    Some(fused) => {
                        fused.shape[0] += part.shape[0];
                        fused.parts.extend(part.parts.iter().cloned());
                    }
                }
            }
            if let Some(fused) = fused
                && entries.insert(name.clone(), fused).is_some()
            {
                return Err(bad(format!("two tensors are called {name}")));
            }
        }
        Ok(self.with_entries(entries))
    }

    /// The same tensors without a prefix of their names: the first of `prefixes` that all names begin
    /// with.
    pub fn without_prefix(&self, prefixes: &[&str]) -> Self {
        let common = |prefix: &&&str| self.entries.keys().all(|key| key.starts_with(**prefix));
        let Some(prefix) = prefixes.iter().find(common) else {
            return self.clone();
        };
        let short = |(key, entry): (&String, &Entry)| (key[prefix.len()..].into(), entry.clone());
        self.with_entries(self.entries.iter().map(short).collect())
    }
}
