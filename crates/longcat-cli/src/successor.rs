//! A process that takes the place of this one after a device failed.
//!
//! What a device computes after a fault is of no use to the process that it belongs to: its queue may hold
//! garbage, and what it allocated is not given back. A process that is asked for more work becomes a new one.

use std::process::Command;

use anyhow::Error;

/// Becomes a new process of this program with the same arguments, to whose command `prepare` adds what it must know.
/// Nothing is dropped. Returns only where that fails, with the reason.
#[cfg(unix)]
pub fn take_over(prepare: impl FnOnce(&mut Command)) -> Error {
    use std::os::unix::process::CommandExt;

    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            return Error::new(error)
                .context("finding this program, to go on after the device failed");
        }
    };
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1));
    prepare(&mut command);
    let failed = Error::new(command.exec());
    failed.context(format!(
        "starting {} anew after the device failed",
        program.display()
    ))
}

/// Says that there are no such processes here.
#[cfg(not(unix))]
pub fn take_over(_prepare: impl FnOnce(&mut Command)) -> Error {
    Error::msg("the device failed, and this system lets no process become another one")
}
