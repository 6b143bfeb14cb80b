//! Heads that devices exchange arrive where they belong.

use burn::tensor::{DType, Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use longcat_kernels::{Gathering, PartCopy};

const SAMPLES: usize = 2;
const HEADS: usize = 6;
const TOKENS: usize = 5;
const WIDTH: usize = 3;

/// The number at a place of the whole.
fn value(at: [usize; 4]) -> f32 {
    let [sample, head, token, channel] = at;
    (((sample * HEADS + head) * TOKENS + token) * WIDTH + channel) as f32
}

/// A box of the whole, `[B, H, N, D]`.
fn part(heads: std::ops::Range<usize>, tokens: std::ops::Range<usize>) -> TensorData {
    let shape = [SAMPLES, heads.len(), tokens.len(), WIDTH];
    let mut values = Vec::new();
    for sample in 0..SAMPLES {
        for head in heads.clone() {
            for token in tokens.clone() {
                values.extend((0..WIDTH).map(|channel| value([sample, head, token, channel])));
            }
        }
    }
    TensorData::new(values, shape)
}

fn tensor(data: TensorData) -> Tensor<Flex, 4> {
    Tensor::from_data(data, &FlexDevice)
}

#[test]
fn tokens_are_exchanged_for_heads_and_back_in_any_order() {
    // Two of five tokens and the rest; then two of six heads and the rest.
    let (tokens, heads) = ([0..2, 2..5], [0..2, 2..6]);
    let by_tokens = [0, 1].map(|rank| tensor(part(0..HEADS, tokens[rank].clone())));
    let shapes = [0, 1].map(|rank| [SAMPLES, heads[rank].len(), TOKENS, WIDTH]);
    let mut gathering =
        Gathering::new(shapes.map(|shape| (FlexDevice, shape)).to_vec(), DType::F32);
    // What comes second is sent first, and by itself.
    for from in [1, 0] {
        let parts = [0, 1].map(|to| PartCopy {
            source: 0,
            target: to,
            heads: heads[to].clone(),
            tokens: 0..tokens[from].len(),
            place: [0, tokens[from].start],
        });
        gathering.send(vec![by_tokens[from].clone()], parts.to_vec());
    }
    let by_heads = gathering.finish();
    for (rank, found) in by_heads.iter().enumerate() {
        let found = found.to_data();
        found.assert_eq(&part(heads[rank].clone(), 0..TOKENS), true);
    }

    let shapes = [0, 1].map(|rank| [SAMPLES, HEADS, tokens[rank].len(), WIDTH]);
    let mut gathering =
        Gathering::new(shapes.map(|shape| (FlexDevice, shape)).to_vec(), DType::F32);
    // Each half of a device's heads by itself, as groups are.
    for half in [1, 0] {
        let mut parts = Vec::new();
        for from in [0, 1] {
            let each = heads[from].len() / 2;
            parts.extend([0, 1].map(|to| PartCopy {
                source: from,
                target: to,
                heads: half * each..(half + 1) * each,
                tokens: tokens[to].clone(),
                place: [heads[from].start + half * each, 0],
            }));
        }
        gathering.send(by_heads.clone(), parts);
    }
    for (found, sent) in gathering.finish().into_iter().zip(by_tokens) {
        found.into_data().assert_eq(&sent.into_data(), true);
    }
}

#[test]
#[should_panic(expected = "PartCopy")]
fn parts_outside_of_their_place_are_refused() {
    let shape = [SAMPLES, HEADS, 1, WIDTH];
    let mut gathering = Gathering::new(vec![(FlexDevice, shape)], DType::F32);
    let part = PartCopy {
        source: 0,
        target: 0,
        heads: 0..HEADS,
        tokens: 0..1,
        place: [0, 1],
    };
    gathering.send(vec![tensor(self::part(0..HEADS, 0..TOKENS))], vec![part]);
}
