//! Convolutions, pooling, attention and activations: one line per signature.
//!
//! Three results are structs over the backend and are rebuilt by hand.

use burn_backend::Scalar;
use burn_backend::ops::{
    ActivationOps, AttentionModuleOptions, ConvOptions, ConvTransposeOptions, DeformConv2dBackward,
    DeformConvOptions, InterpolateOptions, MaxPool2dBackward, MaxPool2dWithIndices, ModuleOps,
};
use burn_flex::{Flex, FlexTensor as Tensor};

use super::{Traced, count, delegate};

type Pair = [usize; 2];
type Maybe = Option<Tensor>;

impl ModuleOps<Traced> for Traced {
    delegate! {
        [embedding](weights: Tensor, at: Tensor) -> Tensor;
        [embedding_backward](weights: Tensor, grad: Tensor, at: Tensor) -> Tensor;
        [layer_norm](x: Tensor, gamma: Tensor, beta: Maybe, epsilon: f64) -> Tensor;
        [attention](q: Tensor, k: Tensor, v: Tensor, mask: Maybe, bias: Maybe,
                    options: AttentionModuleOptions) -> Tensor;

        [conv1d](x: Tensor, w: Tensor, bias: Maybe, options: ConvOptions<1>) -> Tensor;
        [conv2d](x: Tensor, w: Tensor, bias: Maybe, options: ConvOptions<2>) -> Tensor;
        [conv3d](x: Tensor, w: Tensor, bias: Maybe, options: ConvOptions<3>) -> Tensor;
        [conv_transpose1d]
            (x: Tensor, w: Tensor, bias: Maybe, options: ConvTransposeOptions<1>) -> Tensor;
        [conv_transpose2d]
            (x: Tensor, w: Tensor, bias: Maybe, options: ConvTransposeOptions<2>) -> Tensor;
        [conv_transpose3d]
            (x: Tensor, w: Tensor, bias: Maybe, options: ConvTransposeOptions<3>) -> Tensor;
        [deform_conv2d](x: Tensor, offset: Tensor, w: Tensor, mask: Maybe, bias: Maybe,
                        options: DeformConvOptions<2>) -> Tensor;

        [adaptive_avg_pool2d](x: Tensor, size: Pair) -> Tensor;
        [adaptive_avg_pool2d_backward](x: Tensor, grad: Tensor) -> Tensor;
        [avg_pool2d]
            (x: Tensor, size: Pair, stride: Pair, pad: Pair, count_pad: bool, ceil: bool) -> Tensor;
        [avg_pool2d_backward](x: Tensor, grad: Tensor, size: Pair, stride: Pair, pad: Pair,
                              count_pad: bool, ceil: bool) -> Tensor;
        [max_pool2d]
            (x: Tensor, size: Pair, stride: Pair, pad: Pair, dilation: Pair, ceil: bool) -> Tensor;
        [interpolate](x: Tensor, size: Pair, options: InterpolateOptions) -> Tensor;
        [interpolate_backward]
            (x: Tensor, grad: Tensor, size: Pair, options: InterpolateOptions) -> Tensor;

        [rfft](signal: Tensor, dim: usize, n: Option<usize>) -> (Tensor, Tensor);
        [irfft](re: Tensor, im: Tensor, dim: usize, n: Option<usize>) -> Tensor;
    }

    fn max_pool2d_with_indices(
        x: Tensor,
        size: Pair,
        stride: Pair,
        pad: Pair,
        dilation: Pair,
        ceil: bool,
    ) -> MaxPool2dWithIndices<Self> {
        count("max_pool2d_with_indices");
        let pooled = Flex::max_pool2d_with_indices(x, size, stride, pad, dilation, ceil);
        MaxPool2dWithIndices::new(pooled.output, pooled.indices)
    }

    fn max_pool2d_with_indices_backward(
        x: Tensor,
        size: Pair,
        stride: Pair,
        pad: Pair,
        dilation: Pair,
        ceil: bool,
        grad: Tensor,
        at: Tensor,
    ) -> MaxPool2dBackward<Self> {
        count("max_pool2d_with_indices_backward");
        MaxPool2dBackward::new(
            Flex::max_pool2d_with_indices_backward(x, size, stride, pad, dilation, ceil, grad, at)
                .x_grad,
        )
    }

    fn deform_conv2d_backward(
        x: Tensor,
        offset: Tensor,
        weight: Tensor,
        mask: Maybe,
        bias: Maybe,
        grad: Tensor,
        options: DeformConvOptions<2>,
    ) -> DeformConv2dBackward<Self> {
        count("deform_conv2d_backward");
        let grads = Flex::deform_conv2d_backward(x, offset, weight, mask, bias, grad, options);
        DeformConv2dBackward::new(
            grads.x_grad,
            grads.offset_grad,
            grads.weight_grad,
            grads.mask_grad,
            grads.bias_grad,
        )
    }
}

impl ActivationOps<Traced> for Traced {
    delegate! {
        [relu gelu sigmoid log_sigmoid](x: Tensor) -> Tensor;
        [relu_backward gelu_backward sigmoid_backward log_sigmoid_backward]
            (x: Tensor, grad: Tensor) -> Tensor;
        [prelu](x: Tensor, alpha: Tensor) -> Tensor;
        [leaky_relu](x: Tensor, slope: Scalar) -> Tensor;
        [hard_sigmoid](x: Tensor, alpha: Scalar, beta: Scalar) -> Tensor;
        [softmax](x: Tensor, dim: usize) -> Tensor;
    }
}
