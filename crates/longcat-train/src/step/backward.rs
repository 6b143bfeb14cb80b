//! Loss and gradients, with and without activation checkpointing.

use burn::module::Module;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, Tensor};
use longcat_dit::{BlockContext, Embedded, LongCatTransformer, TextCondition, TextTokens};

use super::batch::{FlowMatching, mean_squared_error};
use crate::parameters::{collect_gradients, trained_paths};
use crate::{Gradients, TrainBackend, TrainError};

/// What a forward and backward pass leaves.
pub(super) struct Pass<B: TrainBackend> {
    pub out: Tensor<B::InnerBackend, 5>,
    pub loss: Tensor<B::InnerBackend, 1>,
    pub gradients: Gradients<B::InnerBackend>,
    pub text_gradient: Option<Tensor<B::InnerBackend, 3>>,
}

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// Which parts of a model are trained.
struct Trained {
    /// The first block with a trained parameter; the depth if there is none.
    first_block: usize,
    /// Something before the blocks.
    embedding: bool,
    /// What makes the timestep embeddings.
    time: bool,
    /// What makes the text tokens.
    text: bool,
}

impl Trained {
    /// `text` says that what made the text embeddings is trained too.
    fn of<B: TrainBackend>(model: &LongCatTransformer<B>, text: bool) -> Result<Self, TrainError> {
        let paths = trained_paths::<B, _>(model);
        if paths.is_empty() {
            return Err(TrainError::NothingTrained);
        }
        let block = |path: &String| {
            path.strip_prefix("blocks.")?
                .split('.')
                .next()?
                .parse()
                .ok()
        };
        Ok(Self {
            first_block: paths
                .iter()
                .filter_map(block)
                .min()
                .unwrap_or(model.depth()),
            embedding: text || paths.iter().any(|path| path.contains("_embedder.")),
            time: paths.iter().any(|path| path.contains("t_embedder.")),
            text: text || paths.iter().any(|path| path.contains("y_embedder.")),
        })
    }
}

/// One graph over the whole model.
pub(super) fn plain<B: TrainBackend>(
    model: &LongCatTransformer<B>,
    objective: &FlowMatching<Inner<B>>,
    text_gradient: bool,
) -> Result<Pass<B>, TrainError> {
    let trained = Trained::of(model, text_gradient)?;
    let text = text::<B>(objective, text_gradient);
    let Embedded {
        mut tokens,
        context,
    } = embed(model, objective, &text)?;
    // Gradients of what all blocks share are summed block by block, as with checkpoints.
    let detached = |context: &BlockContext<B>| match trained.embedding {
        true => map_shared(context, |x| x * 1.0, |x| x * 1.0),
        false => context.clone(),
    };
    for (_, block) in model.in_turn(0..model.depth()) {
        tokens = block.forward(tokens, &detached(&context));
    }
    let out = model.head(tokens, &detached(&context));
    let loss = loss(&out, objective);
    let mut gradients = Gradients::default();
    let found = loss.backward();
    collect_gradients::<B, _>(model, "", &found, &mut gradients);
    Ok(Pass {
        out: out.inner(),
        loss: loss.inner(),
        gradients,
        text_gradient: text.embeds.grad(&found),
    })
}

/// A forward pass without graph that keeps the input of every block, then one graph per block,
/// from the last to the first.
pub(super) fn checkpointed<B: TrainBackend>(
    model: &LongCatTransformer<B>,
    objective: &FlowMatching<Inner<B>>,
    text_gradient: bool,
) -> Result<Pass<B>, TrainError> {
    let trained = Trained::of(model, text_gradient)?;
    let text = text::<B>(objective, text_gradient);
    let (inputs, tokens) = block_inputs(model, objective, &trained)?;
    let blocks = model.in_turn(inputs.iter().rev().map(|(i, _)| *i));
    let embedded = embed(model, objective, &text)?;
    // Tracked only where the graph over all blocks tracks them too: operations on tracked tables
    // round otherwise.
    let context = map_shared(
        &embedded.context,
        |time| time.detach().set_require_grad(trained.time),
        |text| text.detach().set_require_grad(trained.text),
    );

    let tokens = tokens.set_require_grad(trained.embedding || trained.first_block < model.depth());
    let out = model.head(tokens.clone(), &context);
    let loss = loss(&out, objective);
    let (out, loss_value) = (out.inner(), loss.clone().inner());

    let mut gradients = Gradients::default();
    let found = loss.backward();
    collect_gradients::<B, _>(model, "", &found, &mut gradients);
    let mut upstream = tokens.grad(&found);
    let mut shared = SharedGradients::default();
    shared.add(&context, &found);

    for ((i, input), (_, block)) in inputs.into_iter().rev().zip(blocks) {
        let Some(gradient) = upstream.take() else {
            break;
        };
        let input = input.set_require_grad(trained.embedding || i > trained.first_block);
        let output = block.forward(input.clone(), &context);
        // The gradient of Σ y·g with a constant g is that of the loss, where g is the loss's
        // gradient at y.
        let found = (output * Tensor::from_inner(gradient)).sum().backward();
        collect_gradients::<B, _>(block, &format!("blocks.{i}"), &found, &mut gradients);
        shared.add(&context, &found);
        upstream = input.grad(&found);
    }
    let mut text_gradient = None;
    if trained.embedding
        && let Some(surrogate) = shared.surrogate(embedded, upstream)
    {
        let found = surrogate.backward();
        collect_gradients::<B, _>(model, "", &found, &mut gradients);
        text_gradient = text.embeds.grad(&found);
    }
    Ok(Pass {
        out,
        loss: loss_value,
        gradients,
        text_gradient,
    })
}

/// Block inputs by index, and the input of the head, all without graph. Only inputs that the
/// backward pass needs are kept.
#[allow(clippy::type_complexity)]
fn block_inputs<B: TrainBackend>(
    model: &LongCatTransformer<B>,
    objective: &FlowMatching<Inner<B>>,
    trained: &Trained,
) -> Result<(Vec<(usize, Tensor<B, 3>)>, Tensor<B, 3>), TrainError> {
    // On the autodiff backend, which records nothing for a frozen model: the inner backend has
    // fused operations that round otherwise, and what is computed again must be the same.
    let model = model.clone().no_grad();
    let Embedded {
        mut tokens,
        context,
    } = embed(&model, objective, &text::<B>(objective, false))?;
    let mut inputs = Vec::with_capacity(model.depth());
    for (i, block) in model.in_turn(0..model.depth()) {
        if trained.embedding || i >= trained.first_block {
            inputs.push((i, tokens.clone()));
        }
        tokens = block.forward(tokens, &context);
    }
    Ok((inputs, tokens))
}

fn text<B: TrainBackend>(objective: &FlowMatching<Inner<B>>, trained: bool) -> TextCondition<B> {
    TextCondition {
        embeds: Tensor::from_inner(objective.text.embeds.clone()).set_require_grad(trained),
        mask: objective.text.mask.clone(),
    }
}

fn embed<B: TrainBackend>(
    model: &LongCatTransformer<B>,
    objective: &FlowMatching<Inner<B>>,
    text: &TextCondition<B>,
) -> Result<Embedded<B>, TrainError> {
    Ok(model.embed(
        Tensor::from_inner(objective.x_t.clone()),
        Tensor::from_inner(objective.timesteps.clone()),
        text,
        objective.num_cond,
    )?)
}

fn loss<B: TrainBackend>(out: &Tensor<B, 5>, objective: &FlowMatching<Inner<B>>) -> Tensor<B, 1> {
    let target = Tensor::from_inner(objective.target.clone());
    mean_squared_error(out.clone(), target, objective.num_cond)
}

/// Replaces the tensors of a context that gradients flow through.
fn map_shared<B: Backend>(
    context: &BlockContext<B>,
    time: impl Fn(Tensor<B, 3>) -> Tensor<B, 3>,
    text: impl Fn(Tensor<B, 3>) -> Tensor<B, 3>,
) -> BlockContext<B> {
    let tokens = context.text.clone().map(|tokens| match tokens {
        TextTokens::Dense(tokens) => TextTokens::Dense(text(tokens)),
        TextTokens::Ragged(samples) => TextTokens::Ragged(samples.into_iter().map(&text).collect()),
    });
    BlockContext {
        text: tokens,
        time: time(context.time.clone()),
        ..context.clone()
    }
}

fn shared_tensors<B: Backend>(context: &BlockContext<B>) -> Vec<Tensor<B, 3>> {
    let mut list = vec![context.time.clone()];
    match &context.text {
        Some(TextTokens::Dense(tokens)) => list.push(tokens.clone()),
        Some(TextTokens::Ragged(samples)) => list.extend(samples.iter().cloned()),
        None => {}
    }
    list
}

/// Gradients of the tensors that all blocks share, summed from the last block to the first.
struct SharedGradients<B: TrainBackend> {
    sums: Vec<Option<Tensor<B::InnerBackend, 3>>>,
}

impl<B: TrainBackend> Default for SharedGradients<B> {
    fn default() -> Self {
        Self { sums: Vec::new() }
    }
}

impl<B: TrainBackend> SharedGradients<B> {
    fn add(&mut self, leaves: &BlockContext<B>, found: &B::Gradients) {
        let leaves = shared_tensors(leaves);
        self.sums.resize(leaves.len(), None);
        for (sum, leaf) in self.sums.iter_mut().zip(leaves) {
            if let Some(gradient) = leaf.grad(found) {
                *sum = Some(match sum.take() {
                    Some(sum) => sum + gradient,
                    None => gradient,
                });
            }
        }
    }

    /// A scalar whose gradients are those of the loss, from the outputs of the embedding on.
    fn surrogate(
        self,
        embedded: Embedded<B>,
        tokens: Option<Tensor<B::InnerBackend, 3>>,
    ) -> Option<Tensor<B, 1>> {
        let outputs = shared_tensors(&embedded.context).into_iter().zip(self.sums);
        std::iter::once((embedded.tokens, tokens))
            .chain(outputs)
            .filter_map(|(output, gradient)| {
                let product = output * Tensor::from_inner(gradient?);
                Some(product.sum().cast(DType::F32))
            })
            .reduce(|a, b| a + b)
    }
}
