//! Arguments of `longcat serve`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::Args;

use super::Place;

#[derive(Debug, Args)]
pub struct Serve {
    /// Port; 0 for any that is free.
    #[arg(long, default_value_t = 8188, value_name = "N")]
    pub port: u16,
    /// Address to listen on. Other machines reach the server by any but the default, and then must have a
    /// --token.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDRESS")]
    pub host: IpAddr,
    /// What clients must know: Authorization: Bearer TOKEN, or the page opened once with ?token=TOKEN. The
    /// variable LONGCAT_TOKEN sets it too, and is not seen by others who list processes.
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Folder of the jobs, their videos and uploads; by default longcat/serve in the user's data folder.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Folder of adapters that clients may use, beside those that they upload and those that `longcat pull`
    /// brought into the Hugging Face cache.
    #[arg(long, value_name = "DIR")]
    pub lora_dir: Option<PathBuf>,
    /// Jobs that may wait; more are refused until there is room.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub queue: usize,
    /// Let all devices of --device share each video. Without it each of them makes videos of its own.
    #[arg(long)]
    pub share_devices: bool,
    /// Free each network after use, so that only one is on a device at a time.
    #[arg(long)]
    pub low_memory: bool,
    #[command(flatten)]
    pub place: Place,
}
