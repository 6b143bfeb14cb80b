//! Changes of parameters that are more than a product of two small factors.

use crate::Matrix;

/// A change of the weight or the bias of a layer beside [`crate::Block`]s: what `.diff`, LoKr and
/// DoRA tensors hold. Changes of one parameter add up.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Whether the layer's bias changes, as a matrix of one column, and not its weight.
    pub bias: bool,
    /// Which part of the parameter's rows, from 0.
    pub part: usize,
    /// In how many equal parts the rows are divided (1: the patch covers them all).
    pub of: usize,
    /// What is added.
    pub change: Change,
    /// Factor on the change; for [`Change::Decomposed`], on the product of its factors.
    pub scale: f64,
}

/// How the difference of a parameter is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The difference itself, `[rows, d_in]`, or `[rows, 1]` for a bias or the weight of a norm.
    Full(Matrix),
    /// The Kronecker product of `left` `[a, b]` and `right` `[c, d]`: a·c rows, b·d columns (LoKr).
    Kronecker {
        /// Varies slowly over rows and columns.
        left: Matrix,
        /// Varies quickly.
        right: Matrix,
    },
    /// `magnitude · V / ‖V‖ − W` with `V = W + scale · up · down` (DoRA). With another strength than
    /// 1 this whole difference is scaled, as ComfyUI does.
    Decomposed {
        /// `[rank, d_in]`.
        down: Matrix,
        /// `[rows, rank]`.
        up: Matrix,
        /// `[rows, 1]`: norms of rows (PEFT, and LyCORIS on the output side); or `[1, d_in]`: norms
        /// of columns (LyCORIS otherwise).
        magnitude: Matrix,
    },
}

impl Patch {
    /// Rows of the part, and columns.
    pub fn shape(&self) -> [usize; 2] {
        match &self.change {
            Change::Full(full) => [full.rows(), full.cols()],
            Change::Kronecker { left, right } => {
                [left.rows() * right.rows(), left.cols() * right.cols()]
            }
            Change::Decomposed { down, up, .. } => [up.rows(), down.cols()],
        }
    }

    /// Rows of the whole parameter.
    pub fn d_out(&self) -> usize {
        self.shape()[0] * self.of
    }

    /// The first row of the parameter that it changes.
    pub(crate) fn first_row(&self) -> usize {
        self.part * self.shape()[0]
    }

    /// What the parameter is called after its layer.
    pub(crate) fn tensor(&self) -> &'static str {
        if self.bias { "bias" } else { "weight" }
    }

    /// The kind in words, for reports.
    pub(crate) fn kind(&self) -> &'static str {
        match (&self.change, self.bias) {
            (Change::Full(_), false) => "weight differences",
            (Change::Full(_), true) => "bias differences",
            (Change::Kronecker { .. }, _) => "LoKr",
            (Change::Decomposed { .. }, _) => "DoRA",
        }
    }

    /// The stored matrices.
    pub(crate) fn matrices(&self) -> Vec<&Matrix> {
        match &self.change {
            Change::Full(full) => vec![full],
            Change::Kronecker { left, right } => vec![left, right],
            Change::Decomposed {
                down,
                up,
                magnitude,
            } => vec![down, up, magnitude],
        }
    }

    /// Why the matrices do not fit each other, if they do not.
    pub(crate) fn problem(&self) -> Option<String> {
        let [rows, cols] = self.shape();
        if rows == 0 || cols == 0 {
            return Some("it is empty".into());
        }
        let Change::Decomposed {
            down,
            up,
            magnitude,
        } = &self.change
        else {
            return None;
        };
        if up.cols() != down.rows() {
            return Some(format!(
                "lora_up has rank {} and lora_down rank {}",
                up.cols(),
                down.rows()
            ));
        }
        let found = [magnitude.rows(), magnitude.cols()];
        if found != [rows, 1] && found != [1, cols] {
            return Some(format!(
                "the magnitudes have shape {found:?}, for a weight [{rows}, {cols}]"
            ));
        }
        None
    }
}
