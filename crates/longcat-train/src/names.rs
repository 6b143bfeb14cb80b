//! Official keys of trained parameters.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use burn::tensor::backend::Backend;
use longcat_dit::internal_names;

use crate::TrainError;
use crate::parameters::{Parameter, read_values};

const HYPHEN: &str = "___lorahyphen___";

/// Parameters, or their gradients, under the keys of the official files: those of an adapter file
/// for adapter factors, those of `dit/` for the transformer's own weights. Values are fp32.
///
/// # Errors
/// [`TrainError::Device`].
pub fn official_tensors<'a, B: Backend>(
    parameters: impl IntoIterator<Item = (&'a str, &'a Parameter<B>)>,
) -> Result<BTreeMap<String, TensorData>, TrainError> {
    let names = internal_names();
    let parameters: Vec<_> = parameters.into_iter().collect();
    let mut ups: BTreeMap<String, usize> = BTreeMap::new();
    for (path, _) in &parameters {
        if let (Some((layer, _)), true) = (path.split_once(".adapters."), path.ends_with(".up")) {
            *ups.entry(layer.to_string()).or_default() += 1;
        }
    }
    parameters
        .into_iter()
        .map(|(path, parameter)| {
            let key = match path.split_once(".adapters.") {
                None => names.map(path),
                Some((layer, factor)) => {
                    let module = names.map(&format!("{layer}."));
                    let module = module.trim_end_matches('.').replace('.', HYPHEN);
                    let part = factor.rsplit('.').nth(1).unwrap_or_default();
                    let factor = match (factor.ends_with(".up"), ups.get(layer)) {
                        (false, _) => "lora_down.weight".to_string(),
                        (true, Some(1)) => "lora_up.weight".to_string(),
                        (true, _) => format!("lora_up.blocks.{part}.weight"),
                    };
                    format!("lora{HYPHEN}{module}.{factor}")
                }
            };
            let values = read_values(parameter.values.clone(), path)?;
            Ok((key, TensorData::new(values, parameter.shape.clone())))
        })
        .collect()
}
