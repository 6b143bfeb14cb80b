//! Models from the [Hugging Face hub](https://huggingface.co), in the cache that all its programs share.
//!
//! - [`Hub`]: which files of a repository are needed, and bringing them: several at once, going on where an
//!   earlier run stopped, with checksums, progress and a check of the disk;
//! - [`HubCache`]: what is in the cache, however it came there, and [`find_model`], the folder of a model
//!   that a user names by path or by name;
//! - [`HubSettings`]: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`,
//!   `HF_HUB_OFFLINE`, as Python's `huggingface_hub` reads them;
//! - [`Selection`]: the parts that models consist of, or patterns to include and exclude.
//!
//! The cache has the layout of `huggingface_hub`, its locks among it, so that each finds what the other
//! brought:
//!
//! ```text
//! models--OWNER--NAME/blobs/CHECKSUM              the content of a file
//! models--OWNER--NAME/blobs/CHECKSUM.incomplete   what is there of it
//! models--OWNER--NAME/snapshots/COMMIT/PATH       a link to the content
//! models--OWNER--NAME/refs/REVISION               the commit of a branch or tag
//! .locks/models--OWNER--NAME/CHECKSUM.lock        held while the content comes
//! ```
//!
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! use longcat_hub::{Hub, HubSettings, PullOptions, Selection};
//!
//! # fn main() -> Result<(), longcat_hub::HubError> {
//! let hub = Hub::new(HubSettings::from_env()?, PullOptions::default());
//! let plan = hub.plan(&"meituan-longcat/LongCat-Video".parse()?, &Selection::default())?;
//! let snapshot = hub.pull(&plan, &mut |progress| {
//!     println!("{} of {} bytes", progress.done, progress.total);
//!     ControlFlow::Continue(())
//! })?;
//! println!("{}", snapshot.path.display());
//! # Ok(())
//! # }
//! ```

mod cache;
mod checksum;
mod client;
mod download;
mod error;
mod listing;
mod name;
mod pull;
mod selection;
mod settings;

pub use cache::{CachedFile, CachedRepo, HubCache, Snapshot};
pub use error::HubError;
pub use listing::RemoteFile;
pub use name::RepoName;
pub use pull::{Hub, PlannedFile, Progress, PullOptions, PullPlan, find_model};
pub use selection::{Selection, is_weights};
pub use settings::{HubSettings, Token};
