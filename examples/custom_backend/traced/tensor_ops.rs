//! Float, int, bool and quantized tensors: one line per signature.

use std::future::Future;
use std::ops::Range;

use burn_backend::ops::{
    BoolTensorOps, FloatTensorOps, GridSampleOptions, IntTensorOps, QTensorOps, TransactionOps,
};
use burn_backend::quantization::{QuantScheme, QuantizationParametersPrimitive};
use burn_backend::tensor::IndexingUpdateOp;
use burn_backend::{
    BoolDType, Distribution, ExecutionError, FloatDType, IntDType, Scalar, Shape, Slice, TensorData,
};
use burn_flex::{Flex, FlexDevice as Device, FlexQTensor as Quantized, FlexTensor as Tensor};

use super::{Traced, count, delegate};

type Read = Result<TensorData, ExecutionError>;

impl FloatTensorOps<Traced> for Traced {
    delegate! {
        [float_from_data](data: TensorData, device: &Device) -> Tensor;
        [float_into_data](x: Tensor) -> impl Future<Output = Read> + Send;
        [float_device](x: &Tensor) -> Device;
        [float_to_device](x: Tensor, device: &Device) -> Tensor;
        [float_random](shape: Shape, of: Distribution, on: &Device, dtype: FloatDType) -> Tensor;
        [float_empty float_zeros float_ones]
            (shape: Shape, on: &Device, dtype: FloatDType) -> Tensor;
        [float_full](shape: Shape, value: Scalar, on: &Device, dtype: FloatDType) -> Tensor;
        [float_cast](x: Tensor, dtype: FloatDType) -> Tensor;
        [float_into_int](x: Tensor, dtype: IntDType) -> Tensor;

        [float_neg float_recip float_exp float_log float_log1p float_sqrt float_abs float_sign
         float_cos float_sin float_tan float_cosh float_sinh float_tanh float_acos float_acosh
         float_asin float_asinh float_atan float_atanh float_round float_floor float_ceil
         float_trunc float_erf float_transpose float_detach float_sum float_prod float_mean
         float_max float_min float_max_abs](x: Tensor) -> Tensor;
        [float_add float_sub float_mul float_div float_remainder float_matmul float_powf float_powi
         float_atan2](a: Tensor, b: Tensor) -> Tensor;
        [float_add_scalar float_sub_scalar float_mul_scalar float_div_scalar float_remainder_scalar
         float_powf_scalar float_powf_scalar_impl float_powi_scalar float_clamp_min
         float_clamp_max](a: Tensor, b: Scalar) -> Tensor;
        [float_clamp](x: Tensor, min: Scalar, max: Scalar) -> Tensor;
        [float_cross](a: Tensor, b: Tensor, dim: usize) -> Tensor;

        [float_swap_dims float_repeat_dim](x: Tensor, a: usize, b: usize) -> Tensor;
        [float_permute float_flip](x: Tensor, axes: &[usize]) -> Tensor;
        [float_reshape float_expand](x: Tensor, shape: Shape) -> Tensor;
        [float_unfold](x: Tensor, dim: usize, size: usize, step: usize) -> Tensor;
        [float_cat](parts: Vec<Tensor>, dim: usize) -> Tensor;
        [float_slice](x: Tensor, slices: &[Slice]) -> Tensor;
        [float_slice_assign](x: Tensor, slices: &[Slice], value: Tensor) -> Tensor;
        [float_gather](dim: usize, x: Tensor, at: Tensor) -> Tensor;
        [float_scatter_add](dim: usize, x: Tensor, at: Tensor, value: Tensor) -> Tensor;
        [float_gather_nd](x: Tensor, at: Tensor) -> Tensor;
        [float_scatter_nd](x: Tensor, at: Tensor, value: Tensor, op: IndexingUpdateOp) -> Tensor;
        [float_select](x: Tensor, dim: usize, at: Tensor) -> Tensor;
        [float_select_add](x: Tensor, dim: usize, at: Tensor, value: Tensor) -> Tensor;
        [float_mask_where](x: Tensor, mask: Tensor, value: Tensor) -> Tensor;
        [float_mask_fill](x: Tensor, mask: Tensor, value: Scalar) -> Tensor;
        [float_grid_sample_2d](x: Tensor, grid: Tensor, options: GridSampleOptions) -> Tensor;

        [float_equal float_not_equal float_greater float_greater_equal float_lower
         float_lower_equal](a: Tensor, b: Tensor, dtype: BoolDType) -> Tensor;
        [float_equal_elem float_not_equal_elem float_greater_elem float_greater_equal_elem
         float_lower_elem float_lower_equal_elem](a: Tensor, b: Scalar, dtype: BoolDType) -> Tensor;
        [float_any float_all float_is_nan float_is_inf](x: Tensor, dtype: BoolDType) -> Tensor;
        [float_any_dim float_all_dim](x: Tensor, dim: usize, dtype: BoolDType) -> Tensor;

        [float_sum_dim float_mean_dim float_prod_dim float_max_dim float_min_dim float_max_abs_dim
         float_cumsum float_cumprod float_cummin float_cummax](x: Tensor, dim: usize) -> Tensor;
        [float_argmax float_argmin](x: Tensor, dim: usize, dtype: IntDType) -> Tensor;
        [float_argtopk](x: Tensor, dim: usize, k: usize, dtype: IntDType) -> Tensor;
        [float_max_dim_with_indices float_min_dim_with_indices]
            (x: Tensor, dim: usize, dtype: IntDType) -> (Tensor, Tensor);
        [float_sort](x: Tensor, dim: usize, down: bool) -> Tensor;
        [float_argsort](x: Tensor, dim: usize, down: bool, dtype: IntDType) -> Tensor;
        [float_sort_with_indices]
            (x: Tensor, dim: usize, down: bool, dtype: IntDType) -> (Tensor, Tensor);
    }
}

impl IntTensorOps<Traced> for Traced {
    delegate! {
        [int_from_data](data: TensorData, device: &Device) -> Tensor;
        [int_into_data](x: Tensor) -> impl Future<Output = Read> + Send;
        [int_device](x: &Tensor) -> Device;
        [int_to_device](x: Tensor, device: &Device) -> Tensor;
        [int_random](shape: Shape, of: Distribution, on: &Device, dtype: IntDType) -> Tensor;
        [int_empty int_zeros int_ones](shape: Shape, on: &Device, dtype: IntDType) -> Tensor;
        [int_full](shape: Shape, value: Scalar, on: &Device, dtype: IntDType) -> Tensor;
        [int_arange](range: Range<i64>, on: &Device, dtype: IntDType) -> Tensor;
        [int_arange_step](range: Range<i64>, step: usize, on: &Device, dtype: IntDType) -> Tensor;
        [int_cast](x: Tensor, dtype: IntDType) -> Tensor;
        [int_into_float](x: Tensor, dtype: FloatDType) -> Tensor;

        [int_neg int_abs int_sign int_transpose int_sum int_prod int_mean int_max int_min
         int_max_abs bitwise_not](x: Tensor) -> Tensor;
        [int_add int_sub int_mul int_div int_remainder int_matmul int_powi bitwise_and bitwise_or
         bitwise_xor bitwise_left_shift bitwise_right_shift](a: Tensor, b: Tensor) -> Tensor;
        [int_add_scalar int_sub_scalar int_mul_scalar int_div_scalar int_remainder_scalar
         int_powi_scalar int_powi_scalar_impl int_clamp_min int_clamp_max bitwise_and_scalar
         bitwise_or_scalar bitwise_xor_scalar bitwise_left_shift_scalar
         bitwise_right_shift_scalar](a: Tensor, b: Scalar) -> Tensor;
        [int_clamp](x: Tensor, min: Scalar, max: Scalar) -> Tensor;

        [int_swap_dims int_repeat_dim int_argtopk](x: Tensor, a: usize, b: usize) -> Tensor;
        [int_permute int_flip](x: Tensor, axes: &[usize]) -> Tensor;
        [int_reshape int_expand](x: Tensor, shape: Shape) -> Tensor;
        [int_unfold](x: Tensor, dim: usize, size: usize, step: usize) -> Tensor;
        [int_cat](parts: Vec<Tensor>, dim: usize) -> Tensor;
        [int_slice](x: Tensor, slices: &[Slice]) -> Tensor;
        [int_slice_assign](x: Tensor, slices: &[Slice], value: Tensor) -> Tensor;
        [int_gather](dim: usize, x: Tensor, at: Tensor) -> Tensor;
        [int_scatter_add](dim: usize, x: Tensor, at: Tensor, value: Tensor) -> Tensor;
        [int_gather_nd](x: Tensor, at: Tensor) -> Tensor;
        [int_scatter_nd](x: Tensor, at: Tensor, value: Tensor, op: IndexingUpdateOp) -> Tensor;
        [int_select](x: Tensor, dim: usize, at: Tensor) -> Tensor;
        [int_select_add](x: Tensor, dim: usize, at: Tensor, value: Tensor) -> Tensor;
        [int_mask_where](x: Tensor, mask: Tensor, value: Tensor) -> Tensor;
        [int_mask_fill](x: Tensor, mask: Tensor, value: Scalar) -> Tensor;

        [int_equal int_not_equal int_greater int_greater_equal int_lower
         int_lower_equal](a: Tensor, b: Tensor, dtype: BoolDType) -> Tensor;
        [int_equal_elem int_not_equal_elem int_greater_elem int_greater_equal_elem int_lower_elem
         int_lower_equal_elem](a: Tensor, b: Scalar, dtype: BoolDType) -> Tensor;
        [int_any int_all](x: Tensor, dtype: BoolDType) -> Tensor;
        [int_any_dim int_all_dim](x: Tensor, dim: usize, dtype: BoolDType) -> Tensor;

        [int_sum_dim int_mean_dim int_prod_dim int_max_dim int_min_dim int_max_abs_dim int_cumsum
         int_cumprod int_cummin int_cummax int_argmax int_argmin](x: Tensor, dim: usize) -> Tensor;
        [int_max_dim_with_indices int_min_dim_with_indices]
            (x: Tensor, dim: usize) -> (Tensor, Tensor);
        [int_sort int_argsort](x: Tensor, dim: usize, down: bool) -> Tensor;
        [int_sort_with_indices](x: Tensor, dim: usize, down: bool) -> (Tensor, Tensor);
    }
}

impl BoolTensorOps<Traced> for Traced {
    delegate! {
        [bool_from_data](data: TensorData, device: &Device) -> Tensor;
        [bool_into_data](x: Tensor) -> impl Future<Output = Read> + Send;
        [bool_device](x: &Tensor) -> Device;
        [bool_to_device](x: Tensor, device: &Device) -> Tensor;
        [bool_empty bool_zeros bool_ones](shape: Shape, on: &Device, dtype: BoolDType) -> Tensor;
        [bool_into_int](x: Tensor, dtype: IntDType) -> Tensor;
        [bool_into_float](x: Tensor, dtype: FloatDType) -> Tensor;

        [bool_not bool_transpose bool_any bool_all](x: Tensor) -> Tensor;
        [bool_equal bool_not_equal bool_and bool_or bool_xor](a: Tensor, b: Tensor) -> Tensor;
        [bool_equal_elem bool_not_equal_elem](a: Tensor, b: Scalar) -> Tensor;
        [bool_any_dim bool_all_dim](x: Tensor, dim: usize) -> Tensor;

        [bool_swap_dims bool_repeat_dim](x: Tensor, a: usize, b: usize) -> Tensor;
        [bool_permute bool_flip](x: Tensor, axes: &[usize]) -> Tensor;
        [bool_reshape bool_expand](x: Tensor, shape: Shape) -> Tensor;
        [bool_unfold](x: Tensor, dim: usize, size: usize, step: usize) -> Tensor;
        [bool_cat](parts: Vec<Tensor>, dim: usize) -> Tensor;
        [bool_slice](x: Tensor, slices: &[Slice]) -> Tensor;
        [bool_slice_assign](x: Tensor, slices: &[Slice], value: Tensor) -> Tensor;
        [bool_gather](dim: usize, x: Tensor, at: Tensor) -> Tensor;
        [bool_scatter_or](dim: usize, x: Tensor, at: Tensor, value: Tensor) -> Tensor;
        [bool_select](x: Tensor, dim: usize, at: Tensor) -> Tensor;
        [bool_select_or](x: Tensor, dim: usize, at: Tensor, value: Tensor) -> Tensor;
        [bool_mask_where](x: Tensor, mask: Tensor, value: Tensor) -> Tensor;
        [bool_mask_fill](x: Tensor, mask: Tensor, value: Scalar) -> Tensor;
    }
}

impl QTensorOps<Traced> for Traced {
    delegate! {
        [q_from_data](data: TensorData, device: &Device) -> Quantized;
        [q_into_data](x: Quantized) -> impl Future<Output = Read> + Send;
        [q_device](x: &Quantized) -> Device;
        [q_to_device](x: Quantized, device: &Device) -> Quantized;
        [quantize_dynamic](x: Tensor, scheme: &QuantScheme) -> Quantized;
        [dequantize](x: Quantized, dtype: FloatDType) -> Tensor;
        [q_reshape q_expand](x: Quantized, shape: Shape) -> Quantized;
        [q_swap_dims](x: Quantized, a: usize, b: usize) -> Quantized;
        [q_permute q_flip](x: Quantized, axes: &[usize]) -> Quantized;
        [q_slice](x: Quantized, slices: &[Slice]) -> Quantized;
        [q_select](x: Quantized, dim: usize, at: Tensor) -> Quantized;
        [q_gather](dim: usize, x: Quantized, at: Tensor) -> Quantized;
        [q_argmax q_argmin](x: Quantized, dim: usize, dtype: IntDType) -> Tensor;
    }

    fn quantize(
        x: Tensor,
        scheme: &QuantScheme,
        parameters: QuantizationParametersPrimitive<Self>,
    ) -> Quantized {
        count("quantize");
        let scales = parameters.scales;
        Flex::quantize(x, scheme, QuantizationParametersPrimitive { scales })
    }
}

impl TransactionOps<Traced> for Traced {}
