//! Calls that wait on the stream.

use std::{fmt, marker::PhantomData, slice};

use burn::tensor::DType;
use burn_backend::{
    Shape,
    tensor::{FloatTensor, IntTensor},
};
use burn_fusion::{
    FusionBackend, FusionHandle, FusionTensor,
    stream::{Operation, OperationStreams},
};
use burn_ir::{CustomOpIr, HandleContainer, OperationIr, OperationOutput, TensorIr};

type Handles<B> = HandleContainer<FusionHandle<<B as FusionBackend>::FusionRuntime>>;

/// A call waiting on the stream.
struct Call<B, F> {
    desc: CustomOpIr,
    body: F,
    backend: PhantomData<fn() -> B>,
}

impl<B, F> fmt::Debug for Call<B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.desc.fmt(f)
    }
}

/// The inputs of a call, in the order in which they were registered.
pub(super) struct Inputs<'a, B: FusionBackend> {
    tensors: slice::Iter<'a, TensorIr>,
    handles: &'a mut Handles<B>,
}

impl<B: FusionBackend> Inputs<'_, B> {
    pub(super) fn float(&mut self) -> FloatTensor<B> {
        let tensor = self.next();
        self.handles.get_float_tensor::<B>(tensor)
    }

    pub(super) fn int(&mut self) -> IntTensor<B> {
        let tensor = self.next();
        self.handles.get_int_tensor::<B>(tensor)
    }
}

impl<'a, B: FusionBackend> Inputs<'a, B> {
    fn next(&mut self) -> &'a TensorIr {
        let next = self.tensors.next();
        next.expect("a call reads what it registered")
    }
}

/// A result of the wrapped backend.
pub(super) enum Output<B: FusionBackend> {
    Float(FloatTensor<B>),
    Int(IntTensor<B>),
}

impl<B, F> Operation<B::FusionRuntime> for Call<B, F>
where
    B: FusionBackend,
    F: Fn(&mut Inputs<'_, B>) -> Vec<Output<B>> + Send + Sync,
{
    fn execute(&self, handles: &mut Handles<B>) {
        let outputs = (self.body)(&mut Inputs {
            tensors: self.desc.inputs.iter(),
            handles,
        });
        for (ir, output) in self.desc.outputs.iter().zip(outputs) {
            match output {
                Output::Float(tensor) => handles.register_float_tensor::<B>(&ir.id, tensor),
                Output::Int(tensor) => handles.register_int_tensor::<B>(&ir.id, tensor),
            }
        }
    }
}

/// Puts a call on the stream; its outputs have the given shapes and dtypes.
pub(super) fn register<B: FusionBackend, const N: usize>(
    name: &'static str,
    inputs: Vec<FusionTensor<B::FusionRuntime>>,
    outputs: [(Shape, DType); N],
    body: impl Fn(&mut Inputs<'_, B>) -> Vec<Output<B>> + Send + Sync + 'static,
) -> [FusionTensor<B::FusionRuntime>; N] {
    let streams = OperationStreams::with_inputs(&inputs);
    let client = inputs[0].client.clone();
    let inputs: Vec<TensorIr> = inputs.into_iter().map(FusionTensor::into_ir).collect();
    let outputs =
        outputs.map(|(shape, dtype)| TensorIr::uninit(client.create_empty_handle(), shape, dtype));
    let desc = CustomOpIr::new(name, &inputs, &outputs);
    let call = Call {
        desc: desc.clone(),
        body,
        backend: PhantomData::<fn() -> B>,
    };
    client
        .register(streams, OperationIr::Custom(desc), call)
        .outputs()
}

/// Defines methods of a trait that `Fusion<B>` and `B` both have: the method of `Fusion<B>` puts a call
/// on the stream, which runs that of `B`.
///
/// Each method is written with the types of its arguments (any [`Argument`](super::argument::Argument))
/// and, for each result, a name, `Float` or `Int`, and its shape and dtype, which may look at the
/// arguments.
macro_rules! on_stream {
    ($(fn $name:ident($($arg:ident: $ty:ty),+ $(,)?) -> (
        $($result:ident: $kind:ident = $shape_and_dtype:expr),+ $(,)?
    );)+) => {$(
        #[allow(unused_parens)] // Around a single result.
        fn $name($($arg: $ty),+) -> ($($crate::wrap::fusion::call::$kind<Self>),+) {
            let outputs = [$($shape_and_dtype),+];
            let mut inputs = Vec::new();
            $(let $arg = Argument::<B>::split($arg, &mut inputs);)+
            let name = concat!("longcat_", stringify!($name));
            let [$($result),+] = register::<B, _>(name, inputs, outputs, move |inputs| {
                $(let $arg = <$ty as Argument<B>>::join(&$arg, inputs);)+
                let ($($result),+) = B::$name($($arg),+);
                vec![$(Output::$kind($result)),+]
            });
            ($($result),+)
        }
    )+};
}

pub(super) use on_stream;

/// What [`on_stream`] calls a float result.
pub(super) type Float<B> = FloatTensor<B>;
/// What [`on_stream`] calls an integer result.
pub(super) type Int<B> = IntTensor<B>;
