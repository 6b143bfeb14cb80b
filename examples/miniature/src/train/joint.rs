//! The transformer of a small model together with its text encoder.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use burn::module::{AutodiffModule, Module};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use longcat_dit::{LongCatTransformer, TextCondition};
use longcat_kernels::KernelBackend;
use longcat_text::{PromptTokenizer, Tokens, Umt5Encoder, clean_prompt, internal_names};
use longcat_train::{
    Gradients, Position, Task, TrainBackend, TrainConfig, TrainError, TrainStep, TransformerTask,
    Weights, collect_gradients, read_values,
};
use longcat_video::VideoError;
use longcat_weights::{collect_module, write_safetensors};

/// A transformer and the text encoder that feeds it.
#[derive(Module, Debug)]
pub struct JointModel<B: Backend> {
    /// The transformer.
    pub dit: LongCatTransformer<B>,
    /// The text encoder.
    pub text: Umt5Encoder<B>,
}

/// As [`TransformerTask`], with captions encoded in every step by the encoder that is trained too.
pub struct JointTask<B: TrainBackend> {
    transformer: TransformerTask<B>,
    device: B::Device,
    /// Text tokens per caption.
    length: usize,
    checkpointing: bool,
    tokenizer: PromptTokenizer,
    /// `text_encoder/config.json` of the checkpoint, which is passed on.
    text_config: PathBuf,
}

impl<B: TrainBackend> JointTask<B> {
    /// The task over that of the transformer, with `tokenizer/` and `text_encoder/config.json` of
    /// the checkpoint directory `root`.
    ///
    /// # Errors
    /// [`TrainError::Video`] for a tokenizer that cannot be read.
    pub fn new(
        config: &TrainConfig,
        transformer: TransformerTask<B>,
        root: &Path,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        let tokenizer = PromptTokenizer::load(&root.join("tokenizer")).map_err(VideoError::from)?;
        Ok(Self {
            transformer,
            device: device.clone(),
            length: tokenizer.length(config.cache.text_length),
            checkpointing: config.train.checkpointing,
            tokenizer,
            text_config: root.join("text_encoder/config.json"),
        })
    }

    fn tokens(&self, captions: &[String]) -> Result<Tokens, TrainError> {
        let cleaned: Vec<String> = captions.iter().map(|c| clean_prompt(c)).collect();
        let tokens = self.tokenizer.encode(&cleaned, self.length);
        Ok(tokens.map_err(VideoError::from)?)
    }

    /// Embeddings `[n, L, d_model]` in f32.
    fn encode<A: KernelBackend<Device = B::Device>>(
        &self,
        encoder: &Umt5Encoder<A>,
        captions: &[String],
    ) -> Result<TextCondition<A>, TrainError> {
        let tokens = self.tokens(captions)?;
        let (ids, mask) = tokens.to_tensors(&self.device);
        Ok(TextCondition {
            embeds: encoder.forward(ids, mask).cast(DType::F32),
            mask: Some(tokens.mask),
        })
    }
}

impl<B: TrainBackend> Task<B> for JointTask<B> {
    type Model = JointModel<B>;

    fn batches_per_epoch(&self) -> usize {
        self.transformer.batches_per_epoch()
    }

    fn gradients(
        &self,
        model: &Self::Model,
        index: u64,
    ) -> Result<(f64, Gradients<B::InnerBackend>), TrainError> {
        let mut embeds = None;
        let text = |captions: &[String]| {
            let text = self.encode(&model.text, captions)?;
            embeds = Some(text.embeds.clone());
            Ok(TextCondition {
                embeds: text.embeds.inner(),
                mask: text.mask,
            })
        };
        let plain = |captions: &[String]| self.encode(&model.text.valid(), captions);
        let batch = self.transformer.batch(index, &model.dit, text, plain)?;
        let step = TrainStep {
            checkpointed: self.checkpointing,
        };
        let output = step.run_with_text(&model.dit, &batch, true)?;
        let mut gradients = output.gradients.under("dit");
        if let (Some(embeds), Some(upstream)) = (embeds, output.text_gradient) {
            let surrogate = (embeds * Tensor::from_inner(upstream)).sum();
            collect_gradients::<B, _>(&model.text, "text", &surrogate.backward(), &mut gradients);
        }
        Ok((
            f64::from(read_values(output.loss, "the loss")?[0]),
            gradients,
        ))
    }

    fn validate(
        &self,
        model: &Self::Model,
        interrupt: &AtomicBool,
    ) -> Result<Vec<(f64, f64)>, TrainError> {
        let text = model.text.valid();
        let encode = |captions: &[String]| self.encode(&text, captions);
        self.transformer
            .validation_means(&model.dit, encode, interrupt)
    }

    fn export(
        &self,
        model: &Self::Model,
        folder: &Path,
        weights: Weights,
        position: &Position,
    ) -> Result<(), TrainError> {
        self.transformer
            .export(&model.dit, folder, weights, position)?;
        let folder = folder.join(format!("text_encoder{}", weights.suffix()));
        std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
        let target = folder.join("config.json");
        std::fs::copy(&self.text_config, &target).map_err(|e| TrainError::io(&target, e))?;
        let tensors = collect_module(&model.text.valid(), &internal_names())?;
        let file = folder.join("model.safetensors");
        Ok(write_safetensors(&file, &tensors, &Default::default())?)
    }

    fn sample(
        &self,
        model: &Self::Model,
        folder: &Path,
        interrupt: &AtomicBool,
    ) -> Result<(), TrainError> {
        let text = model.text.valid();
        let texts = |prompt: &str| {
            let condition = self.encode(&text, &[prompt.to_string()])?;
            let data = condition.embeds.squeeze_dim::<2>(0).into_data();
            let mask = condition.mask.unwrap_or_default();
            Ok((data, mask.into_iter().flatten().collect()))
        };
        self.transformer
            .sample_with(&model.dit, &texts, folder, interrupt)
    }
}
