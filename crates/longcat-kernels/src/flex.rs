//! [`KernelBackend`] on the CPU.

use burn_flex::Flex;

use crate::KernelBackend;

impl KernelBackend for Flex {}
