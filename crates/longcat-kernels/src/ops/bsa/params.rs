//! Parameters of block-sparse attention.

use serde::{Deserialize, Serialize};

use crate::{BlockRule, CdfRule};

/// The `bsa_params` of a model's config.
///
/// With `sparsity` and `cdf_threshold` both given, the larger number of blocks is kept; with
/// neither, all are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BsaParams {
    /// Share of key blocks that is dropped, 0 to 1: `trunc((1 - sparsity) * blocks)` are kept.
    #[serde(default)]
    pub sparsity: Option<f64>,
    /// Blocks are kept while the running sum of their probabilities is at most this.
    #[serde(default)]
    pub cdf_threshold: Option<f64>,
    /// Tokens along t, h, w of a block of queries.
    pub chunk_3d_shape_q: [usize; 3],
    /// Tokens along t, h, w of a block of keys.
    pub chunk_3d_shape_k: [usize; 3],
    /// What happens where the rules above keep nothing. Not an official key.
    #[serde(default, skip_serializing_if = "EmptySelection::is_default")]
    pub empty_selection: EmptySelection,
}

/// What a query block with no key block left does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptySelection {
    /// It keeps the best one.
    #[default]
    KeepBest,
    /// Its output is exactly zero, as in the official code.
    Zero,
}

impl EmptySelection {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What is wrong with a [`BsaParams`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BsaParamsError {
    /// A share outside of 0 to 1.
    #[error("bsa_params.{key} is {value}; give a number from 0 to 1, or null")]
    Share {
        /// The config key.
        key: &'static str,
        /// The value found.
        value: f64,
    },
    /// A chunk without tokens.
    #[error("bsa_params.{key} is {value:?}; each side must be at least 1")]
    Chunk {
        /// The config key.
        key: &'static str,
        /// The value found.
        value: [usize; 3],
    },
}

impl BsaParams {
    /// Checks the values' ranges.
    ///
    /// # Errors
    /// [`BsaParamsError`], naming the key.
    pub fn validate(&self) -> Result<(), BsaParamsError> {
        for (key, value) in [
            ("sparsity", self.sparsity),
            ("cdf_threshold", self.cdf_threshold),
        ] {
            if let Some(value) = value.filter(|x| !(0.0..=1.0).contains(x)) {
                return Err(BsaParamsError::Share { key, value });
            }
        }
        for (key, value) in [
            ("chunk_3d_shape_q", self.chunk_3d_shape_q),
            ("chunk_3d_shape_k", self.chunk_3d_shape_k),
        ] {
            if value.contains(&0) {
                return Err(BsaParamsError::Chunk { key, value });
            }
        }
        Ok(())
    }

    /// The rule for so many key blocks.
    pub(super) fn rule(&self, key_blocks: usize, head_dim: usize) -> BlockRule {
        let top = match (self.sparsity, self.cdf_threshold) {
            // Truncated in f64, as the official code does: 0.9 of 20 keeps 1, 0.8 keeps 3.
            (Some(sparsity), _) => ((1.0 - sparsity) * key_blocks as f64) as usize,
            (None, Some(_)) => 0,
            (None, None) => key_blocks,
        };
        let least = match self.empty_selection {
            EmptySelection::KeepBest => 1,
            EmptySelection::Zero => 0,
        };
        BlockRule {
            top: top.max(least).min(key_blocks),
            cdf: self.cdf_threshold.map(|threshold| CdfRule {
                threshold,
                scale: (head_dim as f64).powf(-0.5),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn params(sparsity: Option<f64>, cdf_threshold: Option<f64>) -> BsaParams {
        BsaParams {
            sparsity,
            cdf_threshold,
            chunk_3d_shape_q: [4, 4, 4],
            chunk_3d_shape_k: [4, 4, 4],
            empty_selection: EmptySelection::KeepBest,
        }
    }

    #[test]
    fn counts_are_truncated_in_f64() {
        let top = |sparsity, blocks| params(Some(sparsity), None).rule(blocks, 16).top;
        assert_eq!(top(0.9, 20), 1);
        assert_eq!(top(0.8, 20), 3);
        assert_eq!(top(0.9375, 2640), 165);
        assert_eq!(top(0.9375, 4), 1);
        assert_eq!(params(None, None).rule(7, 16).top, 7);
        let zero = BsaParams {
            empty_selection: EmptySelection::Zero,
            ..params(Some(0.9375), None)
        };
        assert_eq!(zero.rule(4, 16).top, 0);
    }

    #[test]
    fn official_config_is_read_and_written_back() {
        let text = r#"{"sparsity":0.9375,"cdf_threshold":null,"chunk_3d_shape_q":[4,4,4],"chunk_3d_shape_k":[4,4,4]}"#;
        let read: BsaParams = serde_json::from_str(text).unwrap();
        assert_eq!(read, params(Some(0.9375), None));
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        let unknown = text.replace("sparsity", "sparseness");
        assert!(serde_json::from_str::<BsaParams>(&unknown).is_err());
    }

    #[test]
    fn values_out_of_range_are_named() {
        let message = params(Some(1.5), None).validate().unwrap_err().to_string();
        assert!(message.contains("sparsity") && message.contains("1.5"));
        let mut empty = params(None, None);
        empty.chunk_3d_shape_k = [4, 0, 4];
        let message = empty.validate().unwrap_err().to_string();
        assert!(message.contains("chunk_3d_shape_k"));
    }
}
