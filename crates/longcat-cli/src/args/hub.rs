//! Arguments of what concerns the Hugging Face hub and its cache.

use clap::Args;
use longcat_hub::RepoName;

/// What to download.
#[derive(Debug, Args)]
pub struct Pull {
    /// Repository on the hub: OWNER/NAME, or OWNER/NAME@REVISION.
    #[arg(default_value = "meituan-longcat/LongCat-Video")]
    pub repo: RepoName,
    /// Branch, tag or commit; main by default.
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Only files whose path matches, as in '*Q4_K_M*' or 'lora/'; may be repeated. By default what models
    /// consist of: weights, configs and tokenizers.
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// No files whose path matches; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// List the files and what of them is in the cache, and download nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// How to list the cache.
#[derive(Debug, Args)]
pub struct Models {
    /// Print the list as JSON.
    #[arg(long)]
    pub json: bool,
}
