//! Losses, gradients and an optimiser step of an adapter.

use burn::backend::Autodiff;
use burn::module::Module;
use burn::tensor::DType;
use longcat_dit::lora_targets;
use longcat_kernels::KernelBackend;
use longcat_lora::{Adapter, LoraOptions, LoraRegistry};
use longcat_train::{Batch, LoraOptimizer, OptimizerConfig, TrainStep, official_tensors, trained};

use crate::{Case, Golden, dit};

/// Loss, gradients of every factor, and the adapter after one AdamW step.
pub(crate) fn lora_grad<B: KernelBackend>(golden: &Golden, case: &mut Case, device: &B::Device) {
    let base = dit::load::<Autodiff<B>>(golden, case, device, DType::F32);
    let mut model = base.no_grad();
    for row in case.param("loras").as_array().unwrap() {
        let path = golden.path(row["file"].as_str().unwrap());
        let adapter = Adapter::read(&path, lora_targets()).unwrap();
        let options = LoraOptions {
            strength: row["multiplier"].as_f64().unwrap_or(1.0),
            dtype: Some(DType::F32),
        };
        let name = row["name"].as_str().unwrap();
        model.load_adapter(name, &adapter, options).unwrap();
    }
    let num_cond = case.param("num_cond_latents").as_u64().unwrap_or(0) as usize;
    let batch = Batch {
        x0: case.input::<B, 5>("x0", device),
        noise: case.input("noise", device),
        sigma: case.input("s", device),
        text: dit::text(case, device),
        num_cond,
    };
    let step = TrainStep { checkpointed: true };
    let output = step.run::<Autodiff<B>>(&model, &batch).unwrap();
    case.check_tensor("x_t", output.x_t);
    case.check_tensor("out", output.out);
    case.check_tensor("loss", output.loss);
    match num_cond {
        // One timestep for all frames.
        0 => case.check_tensor::<B, 1>("timestep", output.timesteps.narrow(1, 0, 1).squeeze_dim(1)),
        _ => case.check_tensor::<B, 2>("timestep", output.timesteps),
    }
    for (key, gradient) in official_tensors(output.gradients.iter()).unwrap() {
        case.check(&format!("grad.{key}"), gradient);
    }
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let betas = case.param("betas");
    let mut optimizer = LoraOptimizer::<B>::new(&OptimizerConfig {
        betas: [number(&betas[0]) as f32, number(&betas[1]) as f32],
        epsilon: number(case.param("eps")) as f32,
        weight_decay: number(case.param("weight_decay")) as f32,
    });
    let learning_rate = number(case.param("lr"));
    let model = optimizer.step::<Autodiff<B>, _>(model, output.gradients, learning_rate);
    let after = trained::<Autodiff<B>, _>(&model);
    let after = after.iter().map(|(path, p)| (path.as_str(), p));
    for (key, value) in official_tensors(after).unwrap() {
        case.check(&format!("after.{key}"), value);
    }
}
