//! What `cargo xtask bench` builds and runs: timings of `longcat_runtime::bench` with random weights, one
//! JSON object per line.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Parser, ValueEnum};
use longcat_runtime::{DeviceList, DeviceSpec, bench, set_cublas_enabled};

/// Times operations and networks with random weights; one JSON object per line.
#[derive(Parser)]
#[command(name = "cargo xtask bench", arg_required_else_help = true)]
enum Bench {
    /// Dense and block-sparse attention.
    Attention(Attention),
    /// A forward pass of the transformer.
    Dit(Dit),
    /// The linear layers of the released transformer.
    Linear(Linear),
    /// Loading the transformer of an official directory.
    Load(Load),
    /// A forward pass with blocks in host memory, beside one with all of them on the device.
    Stream(Stream),
    /// Encoding a prompt.
    Text(Text),
    /// An optimiser step of an adapter.
    Train(Train),
    /// Decoding and encoding a clip.
    Vae(Vae),
}

/// What every measurement takes.
#[derive(Args)]
struct Timing {
    /// Runs after the first, which is reported by itself; their median is reported.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Where to run: cpu, wgpu, wgpu:1, cuda or cuda:1.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// On cuda, multiply with Burn's own kernels instead of cuBLASLt.
    #[arg(long)]
    no_cublas: bool,
    /// One JSON object per line, which is how results are always printed.
    #[arg(long, hide = true)]
    json: bool,
}

impl From<Timing> for bench::Timing {
    fn from(args: Timing) -> Self {
        set_cublas_enabled(!args.no_cublas);
        Self {
            repeats: args.repeats,
            device: args.device,
        }
    }
}

/// Sizes of a measurement.
#[derive(Clone, Copy, ValueEnum)]
pub enum Preset {
    /// Hidden 512, 8 heads, 8×32×32 latents, 2,048 tokens, fp32.
    Small,
    /// The released width; 24×60×104 latents (480p, 93 frames), 37,440 tokens.
    Generate,
    /// The released width; 9×60×104 latents (480p, 33 frames), 14,040 tokens.
    Clip,
    /// The released width; 48×88×160 latents, 168,960 tokens, block-sparse.
    Refine,
}

impl From<Preset> for bench::Preset {
    fn from(preset: Preset) -> Self {
        match preset {
            Preset::Small => Self::Small,
            Preset::Generate => Self::Generate,
            Preset::Clip => Self::Clip,
            Preset::Refine => Self::Refine,
        }
    }
}

/// In which numbers packed weights are multiplied.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Products {
    Dense,
    Fp8,
}

/// In which numbers attention is computed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Attended {
    Bf16,
    Fp8,
}

/// A transformer to measure.
#[derive(Args)]
struct Network {
    /// Sizes.
    #[arg(long, value_enum, default_value = "small")]
    preset: Preset,
    /// Number of blocks.
    #[arg(long, default_value_t = 4)]
    depth: usize,
    #[command(flatten)]
    timing: Timing,
}

impl From<Network> for bench::Network {
    fn from(args: Network) -> Self {
        Self {
            preset: args.preset.into(),
            depth: args.depth,
            timing: args.timing.into(),
        }
    }
}

#[derive(Args)]
struct Attention {
    /// Tokens of dense attention, forward and backward: those of 480p and 93 frames.
    #[arg(long, default_value_t = 37_440)]
    tokens: usize,
    /// Token grid T,H,W of block-sparse attention with selection, chunks of 4×4×4 and a sparsity of
    /// 0.9375: that of the released refine stage.
    #[arg(long, value_delimiter = ',', default_values_t = [48, 44, 80])]
    grid: Vec<usize>,
    /// Heads.
    #[arg(long, default_value_t = 32)]
    heads: usize,
    /// Width of a head.
    #[arg(long, default_value_t = 128)]
    head_dim: usize,
    /// With fp8: also forward in eight bits, with how far the results are from those of floats.
    #[arg(long, value_enum, default_value = "bf16")]
    attention: Attended,
    #[command(flatten)]
    timing: Timing,
}

#[derive(Args)]
struct Dit {
    #[command(flatten)]
    network: Network,
    /// Rank of an adapter on the seven kinds of layers of `cfg_step_lora`; 0 for none.
    #[arg(long, default_value_t = 0)]
    lora_rank: usize,
    /// Devices that share the work instead of --device: cuda:0,cuda:1. One that is named twice has two roles
    /// (cuda:0,cuda:0), for checks. The result tells how far it is from that of one device.
    #[arg(long, value_name = "DEVICES", value_parser = DeviceList::in_roles, conflicts_with = "device")]
    share: Option<DeviceList>,
    /// Groups of heads that devices exchange, in place of as many as pay.
    #[arg(long, requires = "share", conflicts_with = "guided")]
    groups: Option<usize>,
    /// Two samples, as under guidance; of devices that share, half take each.
    #[arg(long)]
    guided: bool,
    /// With fp8: also the blocks in fp8, unpacked and multiplied in fp8, of a network with some large
    /// channels, each with how far its result is from that of floats.
    #[arg(long, value_enum, default_value = "dense", conflicts_with = "share")]
    products: Products,
    /// In which numbers self-attention is computed; with --products fp8, that of one more run.
    #[arg(long, value_enum, default_value = "bf16")]
    attention: Attended,
}

#[derive(Args)]
struct Linear {
    /// Rows of the input: the tokens of 480p and 93 frames.
    #[arg(long, default_value_t = 37_440)]
    rows: usize,
    /// Calls per measured run.
    #[arg(long, default_value_t = 50)]
    calls: usize,
    /// With fp8: products in fp8 in the place of other packed weights.
    #[arg(long, value_enum, default_value = "dense")]
    products: Products,
    /// Without packed weights.
    #[arg(long)]
    no_packed: bool,
    #[command(flatten)]
    timing: Timing,
}

#[derive(Args)]
struct Load {
    /// An official `dit/` directory. Where there is none, one with random weights of the preset and
    /// depth is written, in shards of four blocks; the released depth takes 27 GB.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    network: Network,
}

#[derive(Args)]
struct Stream {
    #[command(flatten)]
    network: Network,
    /// Blocks that stay on the device; the others pass through it from host memory.
    #[arg(long, default_value_t = 0)]
    resident_blocks: usize,
}

#[derive(Args)]
struct Text {
    /// Padded length of the prompt.
    #[arg(long, default_value_t = 512)]
    tokens: usize,
    /// Number of blocks.
    #[arg(long, default_value_t = 24)]
    depth: usize,
    #[command(flatten)]
    timing: Timing,
}

#[derive(Args)]
struct Train {
    #[command(flatten)]
    network: Network,
    /// Rank of the adapter on the seven kinds of layers of `cfg_step_lora`.
    #[arg(long, default_value_t = 64)]
    lora_rank: usize,
    /// One graph over all blocks instead of checkpoints.
    #[arg(long)]
    no_checkpointing: bool,
    /// Blocks that stay on the device; the others pass through it from host memory. All by default.
    #[arg(long)]
    resident_blocks: Option<usize>,
}

#[derive(Args)]
struct Vae {
    /// Height and width of the pictures.
    #[arg(long, value_delimiter = ',', default_values_t = [480, 832])]
    size: Vec<usize>,
    /// Frames of the clip, 4n + 1.
    #[arg(long, default_value_t = 93)]
    frames: usize,
    /// Channels at full resolution: those of the release.
    #[arg(long, default_value_t = 96)]
    width: usize,
    /// Latent frames that pass through the network at once.
    #[arg(long, default_value_t = 1)]
    chunk: usize,
    /// Works on overlapping tiles.
    #[arg(long)]
    tiled: bool,
    #[command(flatten)]
    timing: Timing,
}

impl Bench {
    /// Measures, and prints each result as soon as it is there.
    pub fn run(self) -> Result<()> {
        let mut print = |result| println!("{result}");
        let done = match self {
            Self::Attention(args) => {
                let &[t, h, w] = &args.grid[..] else {
                    anyhow::bail!("--grid takes three positive numbers, T,H,W");
                };
                bench::Attention {
                    tokens: args.tokens,
                    grid: [t, h, w],
                    heads: args.heads,
                    head_dim: args.head_dim,
                    fp8: args.attention == Attended::Fp8,
                    timing: args.timing.into(),
                }
                .run(&mut print)
            }
            Self::Dit(args) => {
                let mut network = bench::Network::from(args.network);
                if let Some(devices) = &args.share {
                    network.timing.device = devices.first();
                }
                bench::Dit {
                    network,
                    lora_rank: args.lora_rank,
                    share: args.share,
                    groups: args.groups,
                    guided: args.guided,
                    fp8: args.products == Products::Fp8,
                    fp8_attention: args.attention == Attended::Fp8,
                }
                .run(&mut print)
            }
            Self::Linear(args) => bench::Linear {
                rows: args.rows,
                calls: args.calls,
                fp8: args.products == Products::Fp8,
                packed: !args.no_packed,
                timing: args.timing.into(),
            }
            .run(&mut print),
            Self::Load(args) => bench::Load {
                directory: args.directory,
                network: args.network.into(),
            }
            .run(&mut print),
            Self::Stream(args) => bench::Stream {
                network: args.network.into(),
                resident_blocks: args.resident_blocks,
            }
            .run(&mut print),
            Self::Text(args) => bench::Text {
                tokens: args.tokens,
                depth: args.depth,
                timing: args.timing.into(),
            }
            .run(&mut print),
            Self::Train(args) => bench::Train {
                network: args.network.into(),
                lora_rank: args.lora_rank,
                no_checkpointing: args.no_checkpointing,
                resident_blocks: args.resident_blocks,
            }
            .run(&mut print),
            Self::Vae(args) => {
                ensure!(args.size.len() == 2, "--size takes height and width");
                bench::Vae {
                    size: [args.size[0], args.size[1]],
                    frames: args.frames,
                    width: args.width,
                    chunk: args.chunk,
                    tiled: args.tiled,
                    timing: args.timing.into(),
                }
                .run(&mut print)
            }
        };
        Ok(done?)
    }
}

fn main() -> Result<()> {
    longcat_runtime::keep_freed_memory();
    longcat_runtime::set_up_gpu_runtime();
    Bench::parse().run()
}
