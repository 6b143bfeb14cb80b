//! Writing changes that are no product of two factors.

use longcat_weights::NamedTensor;

use super::Format;
use super::write::{alpha_of, matrix, scalar};
use crate::{Adapter, Change, LoraError, Matrix, Patch, TargetTable};

/// The tensors of an adapter's patches in a format whose readers know them.
pub(super) fn tensors(
    adapter: &Adapter,
    table: &TargetTable,
    format: Format,
) -> Result<Vec<NamedTensor>, LoraError> {
    let writer = Writer { table, format };
    let mut tensors = Vec::new();
    for (layer, patches) in adapter.patches() {
        let known = match format {
            Format::ComfyUi | Format::Kohya => true,
            Format::FastVideo => patches.iter().all(|p| matches!(p.change, Change::Full(_))),
            _ => false,
        };
        if !known {
            return Err(writer.refuse(
                layer,
                format!(
                    "its readers know no {}; choose comfyui or kohya",
                    patches[0].kind()
                ),
            ));
        }
        for bias in [false, true] {
            let of_tensor = patches.iter().filter(|p| p.bias == bias);
            let (full, others): (Vec<&Patch>, Vec<&Patch>) =
                of_tensor.partition(|p| matches!(p.change, Change::Full(_)));
            tensors.extend(writer.full(layer, bias, &full)?);
            for patch in others {
                tensors.extend(writer.other(layer, patch)?);
            }
        }
    }
    Ok(tensors)
}

struct Writer<'a> {
    table: &'a TargetTable,
    format: Format,
}

impl Writer<'_> {
    fn refuse(&self, layer: &str, reason: String) -> LoraError {
        LoraError::NotExpressible {
            format: self.format,
            target: layer.to_string(),
            reason,
        }
    }

    /// A key's module of a layer, or of a part of it.
    fn module(&self, name: &str) -> String {
        let name = self
            .table
            .written(self.format, name)
            .unwrap_or_else(|| name.to_string());
        match self.format {
            Format::ComfyUi => format!("diffusion_model.{name}"),
            Format::Kohya => format!("lora_unet_{}", name.replace('.', "_")),
            _ => name,
        }
    }

    /// Differences: those of parts where readers know the parts, or else one with zeros.
    fn full(
        &self,
        layer: &str,
        bias: bool,
        patches: &[&Patch],
    ) -> Result<Vec<NamedTensor>, LoraError> {
        let ending = if bias { "diff_b" } else { "diff" };
        let vector = bias || self.table.is_norm(layer);
        let tensor = |name: &str, values: &Matrix| {
            let mut tensor = matrix(format!("{}.{ending}", self.module(name)), values);
            if vector {
                tensor.data.shape = [values.rows()].into();
            } else if let Some(kernel) = self.table.kernel(layer) {
                let width = values.cols() / kernel.iter().product::<usize>();
                tensor.data.shape = [&[values.rows(), width], kernel].concat().into();
            }
            tensor
        };
        let Some(first) = patches.first() else {
            return Ok(Vec::new());
        };
        let mut seen: Vec<(usize, usize)> = Vec::new();
        for patch in patches {
            if patch.scale != 1.0
                || seen
                    .iter()
                    .any(|(p, of)| *p == patch.part || *of != patch.of)
            {
                let reason = "it has several differences, or one with a scale".into();
                return Err(self.refuse(layer, reason));
            }
            seen.push((patch.part, patch.of));
        }
        let parts = self.table.parts(layer);
        let by_parts = parts > 1 && self.table.written_parts(self.format, layer).is_some();
        let values = |patch: &Patch| match &patch.change {
            Change::Full(full) => full.clone(),
            _ => unreachable!("sorted out by the caller"),
        };
        if by_parts && first.of == parts {
            let part = |p: &&Patch| tensor(&format!("{layer}#{}", p.part), &values(p));
            return Ok(patches.iter().map(part).collect());
        }
        let [rows, cols] = first.shape();
        let whole: Vec<Matrix> = (0..first.of)
            .map(|part| match patches.iter().find(|p| p.part == part) {
                Some(patch) => values(patch),
                None => Matrix::zeros(rows, cols, values(first).dtype()),
            })
            .collect();
        let whole = Matrix::stack(&whole);
        if by_parts {
            let rows = whole.rows() / parts;
            let part = |j: usize| {
                let name = format!("{layer}#{j}");
                tensor(&name, &whole.slice_rows(j * rows, rows))
            };
            return Ok((0..parts).map(part).collect());
        }
        Ok(vec![tensor(layer, &whole)])
    }

    fn other(&self, layer: &str, patch: &Patch) -> Result<Vec<NamedTensor>, LoraError> {
        let parts = self.table.parts(layer);
        let names = self
            .table
            .written_parts(self.format, layer)
            .filter(|_| parts > 1);
        let module = match (names, patch.of) {
            (Some(_), of) if of == parts => self.module(&format!("{layer}#{}", patch.part)),
            (None, 1) => self.module(layer),
            _ => {
                let reason = format!(
                    "the format divides the layer otherwise than its {}",
                    patch.kind()
                );
                return Err(self.refuse(layer, reason));
            }
        };
        match &patch.change {
            Change::Full(_) => Ok(Vec::new()),
            Change::Kronecker { left, right } => {
                let left = left.scaled_exactly(patch.scale).ok_or_else(|| {
                    self.refuse(layer, format!("LoKr with the scale {}", patch.scale))
                })?;
                Ok(vec![
                    matrix(format!("{module}.lokr_w1"), &left),
                    matrix(format!("{module}.lokr_w2"), right),
                ])
            }
            Change::Decomposed {
                down,
                up,
                magnitude,
            } => Ok(vec![
                matrix(format!("{module}.lora_down.weight"), down),
                matrix(format!("{module}.lora_up.weight"), up),
                matrix(format!("{module}.dora_scale"), magnitude),
                scalar(
                    format!("{module}.alpha"),
                    alpha_of(layer, patch.scale, down.rows(), self.format)?,
                ),
            ]),
        }
    }
}
