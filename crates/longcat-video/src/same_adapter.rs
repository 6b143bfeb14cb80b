//! Whether two adapters hold the same, whatever their files are called and however they are written.

use longcat_lora::{Adapter, Block, Matrix};

/// What a value may lose by being stored as bf16, relative to it.
const ROUNDING: f32 = 1.0 / 128.0;

/// Whether two adapters change the same layers by the same factors, up to the rounding of a 16-bit
/// type.
pub(crate) fn same_adapter(a: &Adapter, b: &Adapter) -> bool {
    // Shapes first: that tells most adapters apart without a look at their values.
    a.targets().map(shapes).eq(b.targets().map(shapes))
        && a.patches().eq(b.patches())
        && a.targets().zip(b.targets()).all(|((_, a), (_, b))| {
            let mut pairs = a.iter().zip(b);
            pairs.all(|(a, b)| {
                same_values(&a.down, 1.0, &b.down, 1.0)
                    // A scale may be part of the factor, where a format has none.
                    && same_values(&a.up, a.scale as f32, &b.up, b.scale as f32)
            })
        })
}

fn shapes<'a>((name, blocks): (&'a str, &[Block])) -> (&'a str, Vec<[usize; 5]>) {
    let shape = |b: &Block| [b.part, b.of, b.rank(), b.up.rows(), b.down.cols()];
    (name, blocks.iter().map(shape).collect())
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
}
