//! Schedules of noise levels and their steps.

use burn::tensor::{Tensor, TensorData};
use longcat_kernels::KernelBackend;
use longcat_video::{FlowMatchScheduler, ScheduleMode};

use crate::{Case, Golden};

pub(crate) fn run<B: KernelBackend>(golden: &Golden, case: &mut Case, device: &B::Device) {
    let config = golden
        .checkpoint(case)
        .join("scheduler/scheduler_config.json");
    let scheduler = FlowMatchScheduler::read(&config).unwrap();
    let mode = match (
        case.param("mode").as_str().unwrap(),
        case.flag("use_distill"),
    ) {
        ("plain", false) => ScheduleMode::Plain,
        ("plain", true) => ScheduleMode::Distill,
        ("enhance_hf", false) => ScheduleMode::EnhanceHighFrequencies,
        ("refine", false) => ScheduleMode::Refine {
            threshold: case.param("t_thresh").as_f64().unwrap() as f32,
        },
        other => panic!("{}: unknown mode {other:?}", case.id),
    };
    let steps = case.usize_param("num_inference_steps");
    let schedule = scheduler.schedule(steps, mode).unwrap();
    let vector = |values: &[f32]| TensorData::new(values.to_vec(), [values.len()]);
    case.check("input_sigmas", vector(&schedule.input_sigmas));
    case.check("timesteps", vector(&schedule.timesteps));
    case.check("sigmas", vector(&schedule.sigmas));

    let first = case.usize_param("first_step");
    let mut sample: Tensor<B, 5> = case.input("sample", device);
    let outputs: Tensor<B, 6> = case.input("model_output", device);
    let mut samples = Vec::new();
    for i in 0..outputs.dims()[0] {
        let velocity = outputs.clone().narrow(0, i, 1).squeeze_dim::<5>(0);
        sample = schedule.step(sample, velocity, first + i);
        samples.push(sample.clone());
    }
    case.check_tensor::<B, 6>("samples", Tensor::stack(samples, 0));
}
