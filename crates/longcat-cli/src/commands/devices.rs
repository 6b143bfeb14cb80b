//! `longcat devices`.

use anyhow::Result;
use longcat_cli::say;

use crate::args::Devices;

pub fn run(args: &Devices) -> Result<()> {
    let list = longcat_runtime::devices();
    if args.json {
        say!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    for device in &list {
        let memory = match device.memory {
            Some(bytes) => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
            None => "memory unknown".into(),
        };
        say!(
            "{:8} {:24} {:>16}  {}",
            device.device,
            device.backend,
            memory,
            device.dtypes.join(" ")
        );
    }
    if list.is_empty() {
        say!("no usable device in this build");
    }
    Ok(())
}
