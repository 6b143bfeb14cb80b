//! Products of low rank, added to some columns.

use longcat_kernels::{KernelBackend, add_low_rank};

use super::numbers::{assert_close, numbers, tensor};

/// Two terms with a gap between their columns, each from its own part of the hidden values.
pub fn check_low_rank<B: KernelBackend>() {
    let (rows, columns, rank) = (7, 20, 5);
    let (y, hidden) = (numbers(rows * columns, 1), numbers(rows * rank, 2));
    let (up, other) = (numbers(6 * 3, 3), numbers(8 * 2, 4));
    let mut expected: Vec<f64> = y.iter().map(|y| f64::from(*y)).collect();
    for (up, [out, r, first, start]) in [(&up, [6, 3, 0, 2]), (&other, [8, 2, 3, 12])] {
        for row in 0..rows {
            for column in 0..out {
                let sum: f64 = (0..r)
                    .map(|i| {
                        let value = hidden[row * rank + first + i];
                        f64::from(value) * f64::from(up[column * r + i])
                    })
                    .sum();
                expected[row * columns + start + column] += sum;
            }
        }
    }
    let parts = vec![
        (0, 2, tensor::<B, 2>(&up, [6, 3])),
        (3, 12, tensor(&other, [8, 2])),
    ];
    let hidden = tensor(&hidden, [1, rows, rank]);
    let out = add_low_rank(tensor::<B, 3>(&y, [1, rows, columns]), hidden, parts);
    assert_close(out, &expected, 1e-5);
}
