//! Many small tensors as few large ones: on a GPU, starting a kernel takes longer than running it over
//! the parameters of a small model.

use std::collections::BTreeMap;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

use crate::TrainError;
use crate::parameters::read_values;

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

/// Named flat tensors in packs.
#[derive(Debug, Clone)]
pub(crate) struct Packed<B: Backend> {
    parts: Vec<(Pack, Tensor<B, 1>)>,
}

impl<B: Backend> Packed<B> {
    /// Puts values into packs, which hold names of theirs.
    pub(crate) fn new(
        packs: impl IntoIterator<Item = Pack>,
        mut values: BTreeMap<String, Tensor<B, 1>>,
    ) -> Self {
        let parts = packs.into_iter().map(|pack| {
            let packed = pack.pack(|name| take(&mut values, name));
            (pack, packed)
        });
        Self {
            parts: parts.collect(),
        }
    }

    /// Packs that hold tensors of one dtype each.
    pub(crate) fn by_dtype(values: BTreeMap<String, Tensor<B, 1>>) -> Self {
        let items = values
            .iter()
            .map(|(name, values)| (name.clone(), values.dims()[0], values.dtype()));
        Self::new(Pack::all(items.collect::<Vec<_>>()), values)
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = &(Pack, Tensor<B, 1>)> {
        self.parts.iter()
    }

    pub(crate) fn packs(&self) -> impl Iterator<Item = &Pack> {
        self.parts.iter().map(|(pack, _)| pack)
    }

    /// Combines what lies in equal packs.
    pub(crate) fn zip(
        self,
        other: Self,
        mut combine: impl FnMut(Tensor<B, 1>, Tensor<B, 1>) -> Tensor<B, 1>,
    ) -> Self {
        let parts = self.parts.into_iter().zip(other.parts);
        let parts = parts.map(|((pack, a), (other, b))| {
            debug_assert_eq!(pack, other);
            (pack, combine(a, b))
        });
        Self {
            parts: parts.collect(),
        }
    }

    /// The tensors by name.
    pub(crate) fn values(&self) -> BTreeMap<String, Tensor<B, 1>> {
        let parts = self.parts.iter();
        let values = parts.flat_map(|(pack, packed)| pack.unpack(packed.clone()));
        values
            .map(|(name, values)| (name.to_string(), values))
            .collect()
    }

    /// The L2 norm over all elements, computed in fp32 on the device and read back once.
    ///
    /// # Errors
    /// [`TrainError::Device`].
    pub(crate) fn norm(&self) -> Result<f64, TrainError> {
        if self.parts.is_empty() {
            return Ok(0.0);
        }
        let squares = self.parts.iter().map(|(_, packed)| {
            let packed = packed.clone().cast(DType::F32);
            packed.square().sum()
        });
        let values = read_values(Tensor::cat(squares.collect(), 0), "the gradient norm")?;
        Ok(values.iter().map(|v| f64::from(*v)).sum::<f64>().sqrt())
    }

    /// Changes what lies in the packs, one after the other.
    pub(crate) fn change(
        &mut self,
        mut change: impl FnMut(Tensor<B, 1>) -> Result<Tensor<B, 1>, TrainError>,
    ) -> Result<(), TrainError> {
        for (_, packed) in &mut self.parts {
            *packed = change(packed.clone())?;
        }
        Ok(())
    }

    /// Multiplies all elements.
    pub(crate) fn scale(&mut self, factor: f64) {
        for (_, packed) in &mut self.parts {
            *packed = packed.clone() * factor;
        }
    }
}

/// An exponential running average of parameters.
#[derive(Debug, Clone)]
pub(crate) struct RunningAverage<B: Backend> {
    decay: f64,
    average: Packed<B>,
}

impl<B: Backend> RunningAverage<B> {
    /// Begins with `values`, flat tensors by name.
    pub(crate) fn new(decay: f64, values: BTreeMap<String, Tensor<B, 1>>) -> Self {
        Self {
            decay,
            average: Packed::by_dtype(values),
        }
    }

    /// Moves towards what a step gave; `all` gives the names that the average began with, which is
    /// asked for where the step changed others.
    pub(crate) fn update(
        &mut self,
        stepped: &Packed<B>,
        all: impl FnOnce() -> BTreeMap<String, Tensor<B, 1>>,
    ) {
        let values = match self.average.packs().eq(stepped.packs()) {
            true => stepped.clone(),
            false => Packed::new(self.average.packs().cloned().collect::<Vec<_>>(), all()),
        };
        let decay = self.decay;
        let average = self.average.clone();
        self.average = average.zip(values, |a, b| a * decay + b * (1.0 - decay));
    }

    /// The average by name.
    pub(crate) fn values(&self) -> BTreeMap<String, Tensor<B, 1>> {
        self.average.values()
    }
}

/// Removes a tensor that is known to be there.
fn take<B: Backend>(values: &mut BTreeMap<String, Tensor<B, 1>>, name: &str) -> Tensor<B, 1> {
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
        average.update(&Packed::by_dtype(one(5.0)), || unreachable!());
        // A step that changed nothing of it.
        average.update(&Packed::by_dtype(BTreeMap::new()), || one(-2.0));
        // 0.75 · (0.75 · 1 + 0.25 · 5) + 0.25 · (−2) = 1.
        let found = average.values().remove("a").unwrap().into_scalar();
        assert_eq!(found, 1.0);
    }
}
