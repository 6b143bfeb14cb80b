//! Between blocks and the one or many matrices that files hold for a fused layer.

use std::collections::BTreeMap;

use super::Format;
use crate::{Block, LoraError, Matrix, TargetTable};

/// Header key under which the number of blocks of layers is kept where it cannot be seen from the
/// factors: a block-diagonal `lora_B` of zeros, say, looks like a dense one.
pub(super) const HINT_KEY: &str = "lora_fused_blocks";

/// One layer of a file, named as in the file but for prefix and flattening.
#[derive(Debug)]
pub(super) struct Piece {
    /// The canonical name of the layer.
    pub(super) target: String,
    pub(super) name: String,
    pub(super) down: Matrix,
    /// One, but for the official format.
    pub(super) ups: Vec<Matrix>,
    pub(super) scale: f64,
    /// The number of blocks in a dense matrix, where a reader could not tell.
    pub(super) hint: Option<usize>,
}

/// Takes the numbers of blocks out of a header.
pub(super) fn take_hints(metadata: &mut BTreeMap<String, String>) -> BTreeMap<String, usize> {
    let text = metadata.remove(HINT_KEY).unwrap_or_default();
    // Only a hint: the factors are checked, so an unreadable one costs nothing.
    serde_json::from_str(&text).unwrap_or_default()
}

/// The blocks of a dense block whose output matrix is block-diagonal in `parts` equal blocks, or
/// else the block itself.
pub(super) fn undo_block_diagonal(dense: Block, parts: usize, hint: Option<&usize>) -> Vec<Block> {
    if parts == 1 || hint == Some(&1) {
        return vec![dense];
    }
    let (rows, rank) = (dense.up.rows() / parts, dense.rank() / parts);
    let divides = |count: usize| count.is_multiple_of(parts);
    if rank == 0 || !divides(dense.up.rows()) || !divides(dense.rank()) {
        return vec![dense];
    }
    let block = |row: usize, col: usize| dense.up.block(row * rows, rows, col * rank, rank);
    let off_diagonal_is_zero =
        (0..parts).all(|i| (0..parts).all(|j| i == j || block(i, j).is_zero()));
    let hinted = hint == Some(&parts);
    if !off_diagonal_is_zero || (dense.up.is_zero() && !hinted) {
        return vec![dense];
    }
    (0..parts)
        .map(|part| Block {
            part,
            of: parts,
            down: dense.down.slice_rows(part * rank, rank),
            up: block(part, part),
            scale: dense.scale,
        })
        .collect()
}

/// Blocks for all parts, of one rank and scale, as the one block that they make.
pub(super) fn joined(blocks: &[Block]) -> Block {
    let ups: Vec<Matrix> = blocks.iter().map(|b| b.up.clone()).collect();
    Block {
        part: 0,
        of: 1,
        down: Matrix::stack(&downs(blocks)),
        up: Matrix::block_diagonal(&ups),
        scale: blocks[0].scale,
    }
}

/// The one block that the parts of a layer were before they were written by parts.
pub(super) fn undo_parts(blocks: Vec<Block>, hint: Option<&usize>) -> Vec<Block> {
    let Some(first) = blocks.first().filter(|_| hint == Some(&1)) else {
        return blocks;
    };
    let same = |b: &Block| b.down == first.down && b.scale == first.scale;
    if first.of == 1 || blocks.len() != first.of || !blocks.iter().all(same) {
        return blocks;
    }
    let ups: Vec<Matrix> = blocks.iter().map(|b| b.up.clone()).collect();
    vec![Block {
        part: 0,
        of: 1,
        down: first.down.clone(),
        up: Matrix::stack(&ups),
        scale: first.scale,
    }]
}

/// The layers of a file that together hold `blocks`, with all numbers unchanged.
pub(super) fn pieces(
    target: &str,
    blocks: &[Block],
    table: &TargetTable,
    format: Format,
    split: bool,
) -> Result<Vec<Piece>, LoraError> {
    let parts = table.parts(target);
    if format == Format::Official {
        return Ok(vec![official(target, blocks)?]);
    }
    // By parts where that is how the format's readers know them, or where asked for.
    let names = table
        .written_parts(format, target)
        .filter(|_| parts > 1)
        .or_else(|| table.split_names(target).filter(|_| split));
    if let Some(names) = names
        && (blocks[0].of == parts || blocks[0].of == 1)
    {
        return Ok(by_parts(target, blocks, &names));
    }
    let mut piece = dense(target, blocks, parts, format)?;
    if let Some(name) = table.written(format, target) {
        piece.name = name;
    }
    Ok(vec![piece])
}

/// Whether the blocks cover all parts with one rank and one scale.
fn is_uniform(blocks: &[Block]) -> bool {
    let first = &blocks[0];
    blocks.len() == first.of
        && blocks
            .iter()
            .all(|b| b.rank() == first.rank() && b.scale == first.scale)
}

fn by_parts(target: &str, blocks: &[Block], names: &[String]) -> Vec<Piece> {
    let whole = blocks[0].of == 1;
    let piece = |part: usize, block: &Block, up: Matrix| Piece {
        target: target.to_string(),
        name: names[part].clone(),
        down: block.down.clone(),
        ups: vec![up],
        scale: block.scale,
        hint: whole.then_some(1),
    };
    match blocks {
        [whole] if whole.of == 1 => {
            let rows = whole.up.rows() / names.len();
            (0..names.len())
                .map(|part| piece(part, whole, whole.up.slice_rows(part * rows, rows)))
                .collect()
        }
        _ => blocks
            .iter()
            .map(|block| piece(block.part, block, block.up.clone()))
            .collect(),
    }
}

fn official(target: &str, blocks: &[Block]) -> Result<Piece, LoraError> {
    let blocks = made_uniform(target, blocks, Format::Official)?;
    Ok(Piece {
        target: target.to_string(),
        name: target.to_string(),
        down: Matrix::stack(&downs(&blocks)),
        scale: blocks[0].scale,
        ups: blocks.into_iter().map(|b| b.up).collect(),
        hint: None,
    })
}

fn dense(target: &str, blocks: &[Block], parts: usize, format: Format) -> Result<Piece, LoraError> {
    let blocks = made_uniform(target, blocks, format)?;
    let dense = joined(&blocks);
    let seen = undo_block_diagonal(dense.clone(), parts, None).len();
    Ok(Piece {
        target: target.to_string(),
        name: target.to_string(),
        down: dense.down,
        ups: vec![dense.up],
        scale: dense.scale,
        hint: (seen != blocks.len()).then_some(blocks.len()),
    })
}

fn downs(blocks: &[Block]) -> Vec<Matrix> {
    blocks.iter().map(|b| b.down.clone()).collect()
}

/// The same sum of products with a block for every part, one rank and one scale: zeros fill up,
/// and scales move into a factor where no number has to be rounded for it.
fn made_uniform(target: &str, blocks: &[Block], format: Format) -> Result<Vec<Block>, LoraError> {
    if is_uniform(blocks) {
        return Ok(blocks.to_vec());
    }
    let rank = blocks.iter().map(Block::rank).max().unwrap_or_default();
    let scaled = blocks
        .iter()
        .find_map(|common| with_scale(blocks, common.scale))
        .ok_or_else(|| LoraError::NotExpressible {
            format,
            target: target.to_string(),
            reason: format!(
                "its parts have different scales ({:?}) and the format has one for the layer; choose a format that splits the layer",
                blocks.iter().map(|b| b.scale).collect::<Vec<_>>()
            ),
        })?;
    let first = &scaled[0];
    let (of, scale, rows, cols) = (first.of, first.scale, first.up.rows(), first.down.cols());
    let complete = (0..of).map(|part| {
        let (down, up) = match scaled.iter().find(|b| b.part == part) {
            Some(block) => (block.down.padded(rank, cols), block.up.padded(rows, rank)),
            None => (
                Matrix::zeros(rank, cols, first.down.dtype()),
                Matrix::zeros(rows, rank, first.up.dtype()),
            ),
        };
        Block {
            part,
            of,
            down,
            up,
            scale,
        }
    });
    Ok(complete.collect())
}

/// The blocks with `scale` as their own, the rest of theirs moved into the output side.
fn with_scale(blocks: &[Block], scale: f64) -> Option<Vec<Block>> {
    blocks
        .iter()
        .map(|block| {
            if block.scale == scale {
                return Some(block.clone());
            }
            let ratio = block.scale / scale;
            // The quotient itself may be rounded; then it is no exact factor.
            if !ratio.is_finite() || ratio.mul_add(scale, -block.scale) != 0.0 {
                return None;
            }
            Some(Block {
                up: block.up.scaled_exactly(ratio)?,
                scale,
                ..block.clone()
            })
        })
        .collect()
}
