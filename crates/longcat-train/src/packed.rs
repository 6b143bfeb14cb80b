//! Many small tensors as few large ones: on a GPU, starting a kernel takes longer than running it over
//! the parameters of a small model.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// Elements of a pack. What is larger stays alone, so that packing copies little memory at a time.
const ELEMENTS: usize = 1 << 22;

/// Named flat tensors that lie one after another in a larger one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pack {
    members: Vec<(String, usize)>,
}

impl Pack {
    /// Packs neighbours of equal key that fit together; items are name, length and key.
    pub(crate) fn all<K: PartialEq>(
        items: impl IntoIterator<Item = (String, usize, K)>,
    ) -> Vec<Self> {
        let mut packs: Vec<Self> = Vec::new();
        let mut last: Option<(usize, K)> = None;
        for (name, length, key) in items {
            match (packs.last_mut(), &mut last) {
                (Some(pack), Some((sum, last))) if *last == key && *sum + length <= ELEMENTS => {
                    *sum += length;
                    pack.members.push((name, length));
                }
                _ => {
                    let members = vec![(name, length)];
                    packs.push(Self { members });
                    last = Some((length, key));
                }
            }
        }
        packs
    }

    /// Names in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| name.as_str())
    }

    /// One tensor of those that `get` gives for the names.
    pub(crate) fn pack<B: Backend>(&self, get: impl FnMut(&str) -> Tensor<B, 1>) -> Tensor<B, 1> {
        let mut parts: Vec<_> = self.names().map(get).collect();
        match parts.len() {
            1 => parts.remove(0),
            _ => Tensor::cat(parts, 0),
        }
    }

    /// What [`Self::pack`] was made of, in the same order.
    pub(crate) fn unpack<B: Backend>(
        &self,
        packed: Tensor<B, 1>,
    ) -> impl Iterator<Item = (&str, Tensor<B, 1>)> {
        self.members.iter().scan(0, move |start, (name, length)| {
            let values = packed.clone().narrow(0, *start, *length);
            *start += length;
            Some((name.as_str(), values))
        })
    }
}

/// An exponential running average of parameters.
#[derive(Debug, Clone)]
pub(crate) struct RunningAverage<B: Backend> {
    decay: f64,
    packs: Vec<(Pack, Tensor<B, 1>)>,
}

impl<B: Backend> RunningAverage<B> {
    /// Begins with `values`, flat tensors by name.
    pub(crate) fn new(decay: f64, mut values: BTreeMap<String, Tensor<B, 1>>) -> Self {
        let items = values
            .iter()
            .map(|(name, values)| (name.clone(), values.dims()[0], values.dtype()));
        let packs = Pack::all(items).into_iter().map(|pack| {
            let packed = pack.pack(|name| take(&mut values, name));
            (pack, packed)
        });
        Self {
            decay,
            packs: packs.collect(),
        }
    }

    /// Moves towards `values`, which have the names that the average began with.
    pub(crate) fn update(&mut self, mut values: BTreeMap<String, Tensor<B, 1>>) {
        for (pack, average) in &mut self.packs {
            let values = pack.pack(|name| take(&mut values, name));
            *average = average.clone() * self.decay + values * (1.0 - self.decay);
        }
    }

    /// The average by name.
    pub(crate) fn values(&self) -> BTreeMap<String, Tensor<B, 1>> {
        let packs = self.packs.iter();
        let values = packs.flat_map(|(pack, packed)| pack.unpack(packed.clone()));
        values
            .map(|(name, values)| (name.to_string(), values))
            .collect()
    }
}

/// Removes a tensor that is known to be there.
pub(crate) fn take<B: Backend>(
    values: &mut BTreeMap<String, Tensor<B, 1>>,
    name: &str,
) -> Tensor<B, 1> {
    let values = values.remove(name);
    values.unwrap_or_else(|| unreachable!("packs hold the names they were made of"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use burn_flex::{Flex, FlexDevice};

    use super::*;

    fn packs(items: &[(&str, usize, u8)]) -> Vec<Pack> {
        let items = items.iter();
        Pack::all(items.map(|(name, length, key)| (name.to_string(), *length, *key)))
    }

    #[test]
    fn packs_end_where_the_key_changes_or_they_are_full() {
        let packs = packs(&[
            ("a", 2, 0),
            ("b", 3, 0),
            ("c", 1, 1),
            ("d", ELEMENTS, 1),
            ("e", 1, 1),
        ]);
        let names: Vec<Vec<&str>> = packs.iter().map(|pack| pack.names().collect()).collect();
        assert_eq!(names, [vec!["a", "b"], vec!["c"], vec!["d"], vec!["e"]]);
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let packs = packs(&[("a", 2, 0), ("b", 3, 0), ("c", 1, 0)]);
        let values = |name: &str| -> Vec<f32> {
            match name {
                "a" => vec![1.0, 2.0],
                "b" => vec![3.0, 4.0, 5.0],
                _ => vec![6.0],
            }
        };
        let packed = packs[0].pack(|name| {
            let values = values(name);
            Tensor::<Flex, 1>::from_floats(values.as_slice(), &FlexDevice)
        });
        assert_eq!(packed.dims(), [6]);
        for (name, tensor) in packs[0].unpack(packed) {
            assert_eq!(tensor.into_data().to_vec::<f32>().unwrap(), values(name));
        }
    }

    #[test]
    fn an_average_decays() {
        let one = |value: f32| {
            let value = Tensor::<Flex, 1>::from_floats([value], &FlexDevice);
            BTreeMap::from([("a".to_string(), value)])
        };
        let mut average = RunningAverage::new(0.75, one(1.0));
        average.update(one(5.0));
        average.update(one(-2.0));
        // 0.75 · (0.75 · 1 + 0.25 · 5) + 0.25 · (−2) = 1.
        let found = average.values().remove("a").unwrap().into_scalar();
        assert_eq!(found, 1.0);
    }
}
