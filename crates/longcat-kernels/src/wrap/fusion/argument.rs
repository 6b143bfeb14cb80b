//! Arguments of calls: their tensors become inputs of the call, the rest stays with it.

use std::ops::Range;

use burn::tensor::DType;
use burn_fusion::{Fusion, FusionBackend, FusionTensor};

use super::call::Inputs;
use crate::{
    BlockList, BlockRule, Conv3dOptions, LowRankPart, PackedLayout, PackedTensors, PatchGrid,
    Products,
};

/// An argument of a method of `Fusion<B>`, and the same of `B`.
pub(super) trait Argument<B: FusionBackend> {
    /// The argument without its tensors.
    type Rest: Send + Sync + 'static;
    /// The argument of `B`.
    type Inner<'a>;

    /// Adds the tensors to `inputs`.
    fn split(self, inputs: &mut Vec<FusionTensor<B::FusionRuntime>>) -> Self::Rest;

    /// Takes the tensors that [`split`](Self::split) added, in the same order.
    fn join<'a>(rest: &'a Self::Rest, inputs: &mut Inputs<'_, B>) -> Self::Inner<'a>;
}

/// Floats; integer tensors, which are of the same type here, come in a [`BlockList`] or in
/// [`PackedTensors`] only.
impl<B: FusionBackend> Argument<B> for FusionTensor<B::FusionRuntime> {
    type Rest = ();
    type Inner<'a> = B::FloatTensorPrimitive;

    fn split(self, inputs: &mut Vec<FusionTensor<B::FusionRuntime>>) {
        inputs.push(self);
    }

    fn join<'a>((): &'a (), inputs: &mut Inputs<'_, B>) -> Self::Inner<'a> {
        inputs.float()
    }
}

/// Arguments without tensors.
macro_rules! plain {
    ($($ty:ty),+) => {$(
        impl<B: FusionBackend> Argument<B> for $ty {
            type Rest = Self;
            type Inner<'a> = Self;

            fn split(self, _inputs: &mut Vec<FusionTensor<B::FusionRuntime>>) -> Self {
                self
            }

            fn join(rest: &Self, _inputs: &mut Inputs<'_, B>) -> Self {
                rest.clone()
            }
        }
    )+};
}

plain!(
    bool,
    usize,
    f64,
    DType,
    Range<usize>,
    BlockRule,
    Conv3dOptions
);

/// Arguments without tensors that are borrowed.
macro_rules! borrowed {
    ($($ty:ty => $owned:ty),+) => {$(
        impl<B: FusionBackend> Argument<B> for &$ty {
            type Rest = $owned;
            type Inner<'a> = &'a $ty;

            fn split(self, _inputs: &mut Vec<FusionTensor<B::FusionRuntime>>) -> $owned {
                self.to_owned()
            }

            fn join<'a>(rest: &'a $owned, _inputs: &mut Inputs<'_, B>) -> &'a $ty {
                rest
            }
        }
    )+};
}

borrowed!(PatchGrid => PatchGrid, [usize] => Vec<usize>);

impl<B: FusionBackend, A: Argument<B>> Argument<B> for Option<A> {
    type Rest = Option<A::Rest>;
    type Inner<'a> = Option<A::Inner<'a>>;

    fn split(self, inputs: &mut Vec<FusionTensor<B::FusionRuntime>>) -> Self::Rest {
        self.map(|argument| argument.split(inputs))
    }

    fn join<'a>(rest: &'a Self::Rest, inputs: &mut Inputs<'_, B>) -> Self::Inner<'a> {
        rest.as_ref().map(|rest| A::join(rest, inputs))
    }
}

impl<B: FusionBackend, A: Argument<B>> Argument<B> for Vec<A> {
    type Rest = Vec<A::Rest>;
    type Inner<'a> = Vec<A::Inner<'a>>;

    fn split(self, inputs: &mut Vec<FusionTensor<B::FusionRuntime>>) -> Self::Rest {
        let arguments = self.into_iter();
        arguments.map(|argument| argument.split(inputs)).collect()
    }

    fn join<'a>(rest: &'a Self::Rest, inputs: &mut Inputs<'_, B>) -> Self::Inner<'a> {
        rest.iter().map(|rest| A::join(rest, inputs)).collect()
    }
}

impl<B: FusionBackend, A1: Argument<B>, A2: Argument<B>> Argument<B> for (A1, A2) {
    type Rest = (A1::Rest, A2::Rest);
    type Inner<'a> = (A1::Inner<'a>, A2::Inner<'a>);

    fn split(self, inputs: &mut Vec<FusionTensor<B::FusionRuntime>>) -> Self::Rest {
        (self.0.split(inputs), self.1.split(inputs))
    }

    fn join<'a>(rest: &'a Self::Rest, inputs: &mut Inputs<'_, B>) -> Self::Inner<'a> {
        (A1::join(&rest.0, inputs), A2::join(&rest.1, inputs))
    }
}

impl<B: FusionBackend> Argument<B> for LowRankPart<Fusion<B>> {
    /// First columns of `hidden` and of `y`.
    type Rest = (usize, usize);
    type Inner<'a> = LowRankPart<B>;

    fn split(self, inputs: &mut Vec<FusionTensor<B::FusionRuntime>>) -> (usize, usize) {
        inputs.push(self.up);
        (self.first, self.start)
    }

    fn join(&(first, start): &(usize, usize), inputs: &mut Inputs<'_, B>) -> LowRankPart<B> {
        let up = inputs.float();
        LowRankPart { up, first, start }
    }
}

impl<B: FusionBackend> Argument<B> for PackedTensors<Fusion<B>> {
    /// What is no tensor, and whether there are scales.
    type Rest = (PackedLayout, Products, bool);
    type Inner<'a> = PackedTensors<B>;

    fn split(self, inputs: &mut Vec<FusionTensor<B::FusionRuntime>>) -> Self::Rest {
        let scaled = self.scale.is_some();
        inputs.push(self.words);
        inputs.extend(self.scale);
        (self.layout, self.products, scaled)
    }

    fn join(
        &(layout, products, scaled): &(PackedLayout, Products, bool),
        inputs: &mut Inputs<'_, B>,
    ) -> PackedTensors<B> {
        PackedTensors {
            words: inputs.int(),
            scale: scaled.then(|| inputs.float()),
            layout,
            products,
        }
    }
}

/// What of a [`BlockList`] is not a tensor.
pub(super) struct ListInfo {
    padded: bool,
    block_q: usize,
    block_k: usize,
}

impl<B: FusionBackend> Argument<B> for BlockList<Fusion<B>> {
    type Rest = ListInfo;
    type Inner<'a> = BlockList<B>;

    fn split(self, inputs: &mut Vec<FusionTensor<B::FusionRuntime>>) -> ListInfo {
        let info = ListInfo {
            padded: self.key_valid.is_some(),
            block_q: self.block_q,
            block_k: self.block_k,
        };
        inputs.extend([self.indices, self.counts]);
        inputs.extend(self.key_valid);
        info
    }

    fn join(info: &ListInfo, inputs: &mut Inputs<'_, B>) -> BlockList<B> {
        BlockList {
            indices: inputs.int(),
            counts: inputs.int(),
            key_valid: info.padded.then(|| inputs.int()),
            block_q: info.block_q,
            block_k: info.block_k,
        }
    }
}
