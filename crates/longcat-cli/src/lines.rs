//! Lines on standard output and standard error for a reader that may leave.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::process::exit;

/// How a shell reports a program that a closed pipe ended, 128 + SIGPIPE. The signal itself stays
/// ignored: pipes to ffmpeg break as well, and that is an error to tell of.
const CLOSED_PIPE: i32 = 141;

/// Prints a line of results on standard output.
///
/// As `println!`, but a pipe whose reader has gone, as in `longcat inspect X | head -1`, ends the program
/// quietly, and any other failure ends it with a message; `println!` panics.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::say_line(format_args!($($arg)*)) };
}

/// Prints a line of progress or a warning on standard error, as `eprintln!`; where nobody can read it, it
/// is lost.
#[macro_export]
macro_rules! note {
    ($($arg:tt)*) => { $crate::note_line(format_args!($($arg)*)) };
}

/// What [`say!`] calls.
pub fn say_line(line: Arguments<'_>) {
    match writeln!(stdout(), "{line}") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(CLOSED_PIPE),
        Err(error) => {
            note_line(format_args!("error: standard output: {error}"));
            exit(1);
        }
    }
}

/// What [`note!`] calls.
pub fn note_line(line: Arguments<'_>) {
    let _ = writeln!(stderr(), "{line}");
}
