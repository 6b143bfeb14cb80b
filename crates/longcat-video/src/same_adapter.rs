//! Whether two adapters hold the same, whatever their files are called and however they are written.

use std::path::Path;

use longcat_dit::lora_targets;
use longcat_lora::{Adapter, Block, LoraError, Matrix};

/// What a value may lose by being stored as bf16, relative to it.
const ROUNDING: f32 = 1.0 / 128.0;

/// Whether two adapters change the same layers by the same factors, up to the rounding of a 16-bit
/// type.
pub(crate) fn same_adapter(a: &Adapter, b: &Adapter) -> bool {
    let layers = a.layers();
    layers == b.layers() && same_layers(&layers.into_iter().collect::<Vec<_>>(), a, b)
}

/// Whether two adapters have layers in common and are the same on all of them: parts of one adapter.
pub(crate) fn share_layers(a: &Adapter, b: &Adapter) -> bool {
    let (own, other) = (a.layers(), b.layers());
    let shared: Vec<&str> = own.intersection(&other).copied().collect();
    !shared.is_empty() && same_layers(&shared, a, b)
}

/// Whether a file holds the same as an adapter, by [`share_layers`] where this is `restricted` to some layers,
/// else by [`same_adapter`]. One layer tells nearly all others apart; of these no more is read.
pub(crate) fn is_of_file(
    adapter: &Adapter,
    restricted: bool,
    path: &Path,
) -> Result<bool, LoraError> {
    let layers = adapter.layers();
    let mut first: Option<String> = None;
    let glance = Adapter::read_layers(path, lora_targets(), &mut |layer| {
        if first.is_none() && layers.contains(layer) {
            first = Some(layer.to_string());
        }
        first.as_deref() == Some(layer)
    })?;
    if !share_layers(adapter, &glance) {
        return Ok(false);
    }
    let whole = Adapter::read(path, lora_targets())?;
    Ok(match restricted {
        true => share_layers(adapter, &whole),
        false => same_adapter(adapter, &whole),
    })
}

fn same_layers(layers: &[&str], a: &Adapter, b: &Adapter) -> bool {
    // Shapes first: that tells most adapters apart without a look at their values.
    let alike = |layer: &&str| {
        let (own, other) = (blocks(a, layer), blocks(b, layer));
        own.iter().map(shape).eq(other.iter().map(shape))
            && a.patches_of(layer) == b.patches_of(layer)
    };
    layers.iter().all(alike)
        && layers.iter().all(|layer| {
            let mut pairs = blocks(a, layer).iter().zip(blocks(b, layer));
            pairs.all(|(a, b)| {
                same_values(&a.down, 1.0, &b.down, 1.0)
                    // A scale may be part of the factor, where a format has none.
                    && same_values(&a.up, a.scale as f32, &b.up, b.scale as f32)
            })
        })
}

fn blocks<'a>(adapter: &'a Adapter, layer: &str) -> &'a [Block] {
    adapter.get(layer).unwrap_or_default()
}

fn shape(block: &Block) -> [usize; 5] {
    let (rows, cols) = (block.up.rows(), block.down.cols());
    [block.part, block.of, block.rank(), rows, cols]
}

fn same_values(a: &Matrix, a_scale: f32, b: &Matrix, b_scale: f32) -> bool {
    if a_scale == b_scale && a == b {
        return true;
    }
    let (a, b) = (a.to_f32(), b.to_f32());
    a.iter().zip(&b).all(|(a, b)| {
        let (a, b) = (a * a_scale, b * b_scale);
        (a - b).abs() <= ROUNDING * a.abs().max(b.abs())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use longcat_lora::{Format, WriteOptions};

    use super::*;

    fn adapter(down: &[f32], up: &[f32], scale: f64) -> Adapter {
        let mut adapter = Adapter::new("by hand");
        let block = Block {
            part: 0,
            of: 1,
            down: Matrix::from_f32(1, 2, down),
            up: Matrix::from_f32(2, 1, up),
            scale,
        };
        adapter.insert("blocks.0.attn.proj", vec![block]).unwrap();
        adapter
    }

    #[test]
    fn rounding_and_folded_scales_make_no_other_adapter() {
        let first = adapter(&[0.3, -0.7], &[0.1, 0.2], 0.5);
        for (other, same) in [
            (adapter(&[0.3, -0.7], &[0.1, 0.2], 0.5), true),
            (adapter(&[0.3008, -0.6992], &[0.1, 0.2], 0.5), true),
            (adapter(&[0.3, -0.7], &[0.05, 0.1], 1.0), true),
            (adapter(&[0.3, -0.7], &[0.1, 0.2], 1.0), false),
            (adapter(&[0.3, 0.7], &[0.1, 0.2], 0.5), false),
        ] {
            assert_eq!(same_adapter(&first, &other), same, "{other:?}");
        }
        assert!(!same_adapter(&first, &Adapter::new("empty")));
    }

    #[test]
    fn files_are_told_by_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let own = adapter(&[0.3, -0.7], &[0.1, 0.2], 0.5);
        let other = adapter(&[1.0, 2.0], &[3.0, 4.0], 1.0);
        let mut more = own.clone();
        let blocks = other.get("blocks.0.attn.proj").unwrap().to_vec();
        more.insert("blocks.1.attn.proj", blocks).unwrap();
        for (i, (adapter, same, restricted)) in [
            (&own, true, true),
            (&other, false, false),
            (&more, false, true),
        ]
        .into_iter()
        .enumerate()
        {
            let path = dir.path().join(format!("{i}.safetensors"));
            let options = WriteOptions {
                format: Format::Official,
                split: false,
            };
            adapter.write(&path, lora_targets(), options).unwrap();
            assert_eq!(is_of_file(&own, false, &path).unwrap(), same, "{i}");
            assert_eq!(is_of_file(&own, true, &path).unwrap(), restricted, "{i}");
        }
        assert!(is_of_file(&own, false, &dir.path().join("none")).is_err());
    }

    #[test]
    fn parts_of_one_adapter_share_layers() {
        let part = adapter(&[0.3, -0.7], &[0.1, 0.2], 0.5);
        let mut whole = part.clone();
        let more = adapter(&[1.0, 2.0], &[3.0, 4.0], 1.0);
        let blocks = more.get("blocks.0.attn.proj").unwrap().to_vec();
        whole.insert("blocks.1.attn.proj", blocks).unwrap();
        let mut rest = whole.clone();
        rest.retain(|layer| layer.starts_with("blocks.1."));
        assert!(!same_adapter(&whole, &part));
        assert!(share_layers(&whole, &part) && share_layers(&rest, &whole));
        assert!(!share_layers(&rest, &part));
        assert!(!share_layers(&whole, &more));
    }
}
