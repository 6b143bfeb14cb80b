//! Fewer ranks and differences of checkpoints, against known singular values.

use longcat_lora::{Adapter, Block, Matrix, RankRule, merge_into_checkpoint};
use longcat_weights::WeightFiles;

use crate::common::*;

/// A block whose singular values are `values`: their product with unit vectors.
fn diagonal(values: &[f32], rows: usize, cols: usize) -> Block {
    let rank = values.len();
    let mut down = vec![0.0; rank * cols];
    let mut up = vec![0.0; rows * rank];
    for (r, value) in values.iter().enumerate() {
        // Not on the diagonal, and of both signs.
        down[r * cols + (r * 3 + 1) % cols] = -2.0;
        up[((r * 5 + 2) % rows) * rank + r] = value / 4.0;
    }
    Block {
        part: 0,
        of: 1,
        down: Matrix::from_f32(rank, cols, &down),
        up: Matrix::from_f32(rows, rank, &up),
        scale: 2.0,
    }
}

#[test]
fn the_largest_singular_values_are_kept_and_the_error_is_that_of_the_others() {
    let mut adapter = Adapter::new("by hand");
    let block = diagonal(&[1.0, 8.0, 2.0, 4.0], 24, 16);
    adapter.insert("blocks.0.ffn.w1", vec![block]).unwrap();
    let exact = delta(adapter.get("blocks.0.ffn.w1").unwrap());
    // Squares: 64, 16, 4, 1.
    let cases = [
        (RankRule::Rank(9), 4, 0.0),
        (RankRule::Rank(2), 2, 5.0),
        (RankRule::Energy(1.0), 4, 0.0),
        (RankRule::Energy(0.9), 2, 5.0),
        (RankRule::Energy(0.5), 1, 21.0),
    ];
    for (rule, rank, lost) in cases {
        let mut calls = 0;
        let (small, report) = adapter.resized(rule, &mut |_, _| calls += 1).unwrap();
        let blocks = small.get("blocks.0.ffn.w1").unwrap();
        assert_eq!((blocks[0].rank(), calls), (rank, 1));
        let error = (lost / 85.0f64).sqrt();
        assert!(
            (report.relative_error - error).abs() < 1e-7,
            "{rule:?}: {report:?}"
        );
        assert!((relative_error(&delta(blocks), &exact) - error).abs() < 1e-6);
    }
    for rule in [
        RankRule::Rank(0),
        RankRule::Energy(1.5),
        RankRule::Energy(f64::NAN),
    ] {
        let error = adapter.resized(rule, &mut |_, _| ()).unwrap_err();
        assert_eq!(error.code(), "invalid_setting");
    }
}

#[test]
fn an_adapter_comes_back_out_of_the_checkpoint_it_was_merged_into() {
    let adapter = read("checkpoints/tiny/lora/refinement_lora.safetensors");
    let dir = tempfile::tempdir().unwrap();
    let tuned = dir.path().join("tuned");
    let source = golden("checkpoints/tiny/dit");
    merge_into_checkpoint(&source, &[(&adapter, 0.8)], &tuned, table()).unwrap();
    let tuned = WeightFiles::open(&tuned).unwrap();
    let ignore = &mut |_, _| ();
    let (found, report) =
        Adapter::extracted(&tiny_checkpoint(), &tuned, table(), 16, ignore).unwrap();
    assert!(
        report.relative_error < 1e-3 && report.left_out.is_empty(),
        "{report:?}"
    );
    assert_eq!(found.layers(), adapter.layers());
    for (layer, blocks) in adapter.targets() {
        let expected: Vec<f64> = delta(blocks).iter().map(|d| 0.8 * d).collect();
        let error = relative_error(&delta(found.get(layer).unwrap()), &expected);
        // What f32 weights keep of a small difference.
        assert!(error < 1e-4, "{layer}: {error}");
    }
    let (_, few) = Adapter::extracted(&tiny_checkpoint(), &tuned, table(), 2, ignore).unwrap();
    assert!(few.relative_error > 0.1 && few.ranks.keys().eq([&2]));
    let base = tiny_checkpoint();
    let error = Adapter::extracted(&base, &base, table(), 4, ignore).unwrap_err();
    assert_eq!(error.code(), "invalid_setting");
}
